//! The HTTP client: `ureq` agents with every guard that its defaults lack.

use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::transport::{Connector as _, RustlsConnector};

use crate::limits;
use crate::net::connect::Dialler;
use crate::net::resolve::Resolver;
use crate::net::tls::{self, Roots};

/// How long an idle connection to a server is kept.
const IDLE: Duration = Duration::from_secs(15);
/// How long we wait for `100 Continue` before the body is sent anyway.
const AWAIT_CONTINUE: Duration = Duration::from_secs(1);

/// What differs between agents.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// From nothing to a connection, name look-up and TLS included.
    pub connect: Duration,
    /// From the request's end to the response's head.
    pub first_byte: Duration,
    /// Between two reads of the body.
    pub read: Duration,
    /// For one write of the request's body.
    pub write: Duration,
    /// From the beginning to the end of everything, body included; `None`: unbounded.
    pub whole: Option<Duration>,
    /// Idle connections kept to one server.
    pub idle_per_host: usize,
    /// Idle connections kept in all.
    pub idle: usize,
    /// Bytes of buffer of one connection: 256 KiB is as fast as curl, 16 KiB enough for JSON.
    pub buffer_len: usize,
    /// Whom to trust.
    pub roots: Roots,
}

impl AgentConfig {
    /// For bodies of any length from upstreams.
    #[must_use]
    pub fn for_upstreams(roots: Roots) -> AgentConfig {
        AgentConfig {
            connect: limits::UPSTREAM_CONNECT,
            first_byte: limits::UPSTREAM_FIRST_BYTE,
            read: limits::UPSTREAM_READ,
            write: limits::UPSTREAM_READ,
            whole: None,
            idle_per_host: 16,
            idle: 64,
            buffer_len: limits::COPY_LEN,
            roots,
        }
    }

    /// For small calls, each over after at most `whole`.
    #[must_use]
    pub fn for_calls(whole: Duration, roots: Roots) -> AgentConfig {
        AgentConfig {
            connect: whole,
            first_byte: whole,
            read: whole,
            write: whole,
            whole: Some(whole),
            idle_per_host: 4,
            idle: 16,
            buffer_len: 16 << 10,
            roots,
        }
    }
}

/// Makes an agent. It never uses a proxy of the environment, which might be ourselves, follows no
/// redirect, treats no status as an error, adds no `User-Agent` or `Accept`, and asks for bodies as
/// they are. Every wait has a bound. It connects to any address.
#[must_use]
pub fn agent(config: &AgentConfig) -> Agent {
    agent_with(config, Resolver::new(Arc::new(|_, _, _| true)))
}

/// As [`agent`], but connects only where `resolver` says. (ureq's own resolver starts a thread for
/// each request that has a deadline.)
#[must_use]
pub fn agent_with(config: &AgentConfig, resolver: Resolver) -> Agent {
    let roots = &config.roots.0;
    let roots = RootCerts::from(roots.iter().map(|one| Certificate::from_der(one).to_owned()));
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(tls::provider())
        .root_certs(roots)
        .build();
    let guarded = Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .user_agent("")
        .accept("")
        .accept_encoding("identity")
        .tls_config(tls)
        .timeout_connect(Some(config.connect))
        .timeout_recv_response(Some(config.first_byte))
        .timeout_per_read(Some(config.read))
        .timeout_per_write(Some(config.write))
        .timeout_await_100(Some(AWAIT_CONTINUE))
        .timeout_global(config.whole)
        .max_response_header_size(limits::HTTP_HEAD_LEN_MAX)
        .input_buffer_size(config.buffer_len)
        .output_buffer_size(config.buffer_len)
        .max_idle_connections(config.idle)
        .max_idle_connections_per_host(config.idle_per_host)
        .max_idle_age(IDLE)
        .build();
    let connector = Dialler::default().chain(RustlsConnector::default());
    Agent::with_parts(guarded, connector, resolver)
}
