//! The extension handshake (BEP 10).
