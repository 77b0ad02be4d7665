//! Floor 5: the one place that decides where bytes come from.

pub mod grants;
pub mod plan;
