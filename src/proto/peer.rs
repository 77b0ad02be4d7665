//! The peer wire protocol: handshake and messages (BEP 3, 6, 10, 20).
