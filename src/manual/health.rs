//! Asks a command that runs on this host how it is, for those who cannot ask over HTTP themselves:
//! the health check of an image that holds nothing but this program.

use std::ffi::OsString;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::base::args::{self, Parsed, UsageError};
use crate::limits;
use crate::net::agent::{AgentConfig, agent};
use crate::net::tls::Roots;
use crate::process::{Command, Failure};

/// Asks the command `name` at its `ADMIN`, whether it lives and whether it is ready. The other
/// options and variables of the command may be there as they were for its start.
pub(super) fn look(
    commands: &[Command],
    name: &str,
    flags: Vec<OsString>,
) -> Result<String, Failure> {
    let Some(command) = commands.iter().find(|command| command.name == name) else {
        return Err(UsageError(format!("no such command: {name}")).into());
    };
    let Parsed::Run(values) = args::parse(command.options, flags, |name| std::env::var_os(name))?
    else {
        return Err(UsageError("only options of the one that is asked may follow".into()).into());
    };
    let admin = values.get("ADMIN")?.ok_or_else(|| values.bad("ADMIN", &"a value is needed"))?;
    let admin = reachable(admin);
    for path in ["/healthz", "/readyz"] {
        ask(admin, path).map_err(|why| Failure::Broken(format!("{name} at {admin}: {why}")))?;
    }
    Ok("ready\n".to_owned())
}

/// Where who listens on all addresses is found.
fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

/// `Ok`: the answer is 200.
fn ask(admin: SocketAddr, path: &str) -> Result<(), String> {
    let config = AgentConfig::for_calls(limits::HEALTH_CALL, Roots(Vec::new()));
    let url = format!("http://{admin}{path}");
    let answer = agent(&config).get(url).call().map_err(|error| error.to_string())?;
    let status = answer.status();
    if status == 200 {
        return Ok(());
    }
    let mut why = String::new();
    let body = answer.into_body().into_reader().take(limits::HEALTH_ANSWER_LEN_MAX);
    // What cannot be read is not needed: the status says enough.
    let _ = { body }.read_to_string(&mut why);
    Err(format!("{}: {}", status.as_u16(), why.trim().replace(char::is_control, " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_found_on_loopback() {
        for (admin, found) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("10.0.0.1:3", "10.0.0.1:3")]
        {
            let admin = admin.parse().expect("an address");
            assert_eq!(reachable(admin).to_string(), found);
        }
    }
}
