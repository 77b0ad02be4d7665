//! `CONNECT` through the server.

use std::net::TcpListener;

use super::*;

/// Accepts one connection, says hello, and sends back in capitals what it gets until the end.
fn shouting_upstream() -> (u16, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"hello ").unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        stream.write_all(&text.to_ascii_uppercase()).unwrap();
    });
    (port, thread)
}

#[test]
fn bytes_go_both_ways_and_each_end_is_passed_on() {
    let rig = rig(|_| {});
    let (port, upstream) = shouting_upstream();
    let mut stream = rig.connect();
    // The first bytes for the server come with the head.
    let head = format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: h\r\n\r\nearly ");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"late").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "HTTP/1.1 200 OK\r\n\r\nhello EARLY LATE");
    upstream.join().unwrap();
}

#[test]
fn a_stop_cuts_tunnels() {
    let rig = rig(|config| config.name = "tunnels");
    let (port, upstream) = shouting_upstream();
    let mut stream = rig.connect();
    let head = format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: h\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut hello = [0; 25];
    stream.read_exact(&mut hello).unwrap();
    rig.server.stop(Time::now());
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    upstream.join().unwrap();
    assert!(!thread::live().iter().any(|name| name.starts_with("tunnels")));
}
