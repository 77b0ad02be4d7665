//! HTTP/1.1 heads, framing and ranges (RFC 9110, RFC 9112).
