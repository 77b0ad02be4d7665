//! Standard base64 (RFC 4648, section 4).
