//! The `.torrent` of a blob (BEP 3 v1), a function of the blob's bytes alone.
