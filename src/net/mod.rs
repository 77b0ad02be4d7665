//! Floor 2: sockets without meaning: listeners, TLS, the HTTP server, UDP, the HTTP client's agent.

pub mod admin;
pub mod agent;
mod answering;
mod connect;
pub mod resolve;
pub mod serve;
pub mod tcp;
pub mod tls;
pub mod udp;
