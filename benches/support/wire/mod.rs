//! Blobs on their way from a seeder, of this program or another.

pub mod cargo;
pub mod host;
pub mod peers;
