//! Bencode (BEP 3): strict, canonical, bounded.
