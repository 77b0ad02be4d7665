//! Floor 6: the tracker that peers see, and the etcd beside it.

pub mod registry;
pub mod supervise;
