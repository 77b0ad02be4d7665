//! A proxy in front of an HTTP server that counts what passes and fails on purpose.
//!
//! It passes requests on, with bodies of a given length, one per connection, byte for byte but for
//! the `Connection` header; faults apply to requests whose path they name.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;

use super::{PATIENCE, loopback};

/// What goes wrong. Offsets are bytes of the response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed in order (FIN) after so many bytes.
    Cut { after: u64 },
    /// The connection is reset (RST) after so many bytes.
    Reset { after: u64 },
    /// Nothing comes after so many bytes, but the connection stays open.
    Stall { after: u64 },
    /// This status instead of the server's answer; 401 with a challenge, 429 with `Retry-After: 1`.
    Status(u16),
    /// The server never sees the `Range` header: 200 and the whole.
    IgnoreRange,
    /// The byte at this offset is another one.
    Flip { at: u64 },
    /// The server never sees the request, and nothing comes.
    Silent,
    /// The body comes a byte at a time, with so long between them.
    Drip { every: Duration },
    /// Instead of the server's answer, 200 and so many bytes.
    Long { len: usize },
}

/// A request that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// The value of its `Range` header.
    pub range: Option<String>,
    /// Bytes of the body that were sent back so far, those among them that are being sent.
    pub bytes: u64,
}

/// The proxy. Stopped on drop.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Part of a path, how many requests it still applies to, and what happens to them.
    faults: Vec<(String, usize, Fault)>,
    requests: Vec<Request>,
    /// A copy of each open connection, by the client's address: a connection ends with its last
    /// copy.
    open: BTreeMap<SocketAddr, TcpStream>,
    stop: bool,
}

impl FaultProxy {
    /// A proxy in front of `upstream` that fails at nothing yet.
    pub fn start(upstream: SocketAddr) -> FaultProxy {
        let listener = TcpListener::bind(loopback(0)).expect("loopback has a free port");
        let addr = listener.local_addr().expect("it is bound");
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { upstream, state, stopped: Condvar::new() });
        let for_thread = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || accept(&listener, &for_thread));
        FaultProxy { addr, shared, accepting: Some(accepting) }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address as `http://host:port`, as `REGISTRY_LOCATION` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Fails the next `times` requests whose path contains `part`; the fault that was asked for
    /// first comes first.
    pub fn fail(&self, part: &str, times: usize, fault: Fault) {
        self.shared.lock().faults.push((part.to_owned(), times, fault));
    }

    /// Fails at nothing any more.
    pub fn heal(&self) {
        self.shared.lock().faults.clear();
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// The requests with `method` for the blob with this digest.
    pub fn blob_requests(&self, method: &str, digest: &str) -> Vec<Request> {
        let blob = format!("/blobs/{digest}");
        let mut requests = self.requests();
        requests.retain(|request| request.method == method && request.path.ends_with(&blob));
        requests
    }

    /// How many bytes of this blob were sent back.
    pub fn blob_bytes(&self, digest: &str) -> u64 {
        self.blob_requests("GET", digest).iter().map(|request| request.bytes).sum()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        let open = {
            let mut state = self.shared.lock();
            state.stop = true;
            std::mem::take(&mut state.open)
        };
        self.shared.stopped.notify_all();
        for stream in open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // The accepting thread looks at the flag when it has a connection.
        let _ = TcpStream::connect(self.addr);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the request; its number, and the fault that is meant for it.
    fn enter(&self, request: Request) -> (usize, Option<Fault>) {
        let mut state = self.lock();
        let hit = |(part, left, _): &&mut (String, usize, Fault)| {
            *left > 0 && request.path.contains(part.as_str())
        };
        let fault = state.faults.iter_mut().find(hit).map(|(_, left, fault)| {
            *left -= 1;
            *fault
        });
        state.requests.push(request);
        (state.requests.len() - 1, fault)
    }

    fn wait_for_stop(&self) {
        while !self.stops_within(PATIENCE) {}
    }

    /// Waits so long, or until it stops: then true.
    fn stops_within(&self, wait: Duration) -> bool {
        let waited = self.stopped.wait_timeout_while(self.lock(), wait, |state| !state.stop);
        waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while let Ok((client, from)) = listener.accept() {
        let mut state = shared.lock();
        if state.stop {
            break;
        }
        state.open.insert(from, client.try_clone().expect("the process has descriptors left"));
        drop(state);
        let shared = Arc::clone(shared);
        connections.push(std::thread::spawn(move || {
            // An error is the end of this connection; what it means is the client's business.
            let _ = serve(&client, &shared);
            shared.lock().open.remove(&from);
        }));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

fn serve(mut client: &TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_nodelay(true)?;
    let Some((head, mut sent)) = read_head(client)? else { return Ok(()) };
    let Some(request) = parse(&head) else { return Ok(()) };
    let missing = request_len(&head).saturating_sub(sent.len() as u64);
    client.take(missing).read_to_end(&mut sent)?;
    let (number, fault) = shared.enter(request);
    match fault {
        Some(Fault::Status(status)) => return client.write_all(failure(status).as_bytes()),
        Some(Fault::Silent) => {
            shared.wait_for_stop();
            return Ok(());
        }
        Some(Fault::Long { len }) => {
            client.write_all(
                format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n").as_bytes(),
            )?;
            return client.write_all(&vec![b' '; len]);
        }
        _ => {}
    }
    let mut upstream = TcpStream::connect_timeout(&shared.upstream, Duration::from_secs(5))?;
    upstream.set_read_timeout(Some(PATIENCE))?;
    let drops_range = fault == Some(Fault::IgnoreRange);
    upstream.write_all(forwarded(&head, drops_range).as_bytes())?;
    upstream.write_all(&sent)?;
    let Some((head, rest)) = read_head(&upstream)? else { return Ok(()) };
    client.write_all(head.as_bytes())?;
    let mut body = io::Cursor::new(rest).chain(upstream);
    if let Some(Fault::Drip { every }) = fault {
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes)?;
        for byte in bytes {
            client.write_all(&[byte])?;
            if shared.stops_within(every) {
                break;
            }
        }
        return client.shutdown(Shutdown::Both);
    }
    pass(body, client, fault, |len| shared.lock().requests[number].bytes += len)?;
    match fault {
        Some(Fault::Stall { .. }) => shared.wait_for_stop(),
        Some(Fault::Reset { .. }) => SockRef::from(client).set_linger(Some(Duration::ZERO))?,
        _ => client.shutdown(Shutdown::Both)?,
    }
    Ok(())
}

/// Copies `body` to `client` with the damage that `fault` does to it. Tells `sends` of each part
/// before it goes out: who has all of it finds all of it counted.
fn pass(
    body: impl Read,
    mut client: &TcpStream,
    fault: Option<Fault>,
    mut sends: impl FnMut(u64),
) -> io::Result<()> {
    let (end, flipped) = match fault {
        Some(Fault::Cut { after } | Fault::Reset { after } | Fault::Stall { after }) => {
            (after, None)
        }
        Some(Fault::Flip { at }) => (u64::MAX, Some(at)),
        _ => (u64::MAX, None),
    };
    let mut body = body.take(end);
    let mut part = vec![0; 64 << 10];
    let mut offset = 0;
    loop {
        let len = body.read(&mut part)?;
        if len == 0 {
            return Ok(());
        }
        let len_u64 = len as u64;
        if let Some(at) = flipped.filter(|at| (offset..offset + len_u64).contains(at)) {
            let index = usize::try_from(at - offset).expect("within the part");
            part[index] ^= 1;
        }
        sends(len_u64);
        client.write_all(&part[..len])?;
        offset += len_u64;
    }
}

/// A head up to and with its empty line, and what was read beyond; `None` if the stream ends or
/// speaks something else, such as TLS.
fn read_head(mut stream: &TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let len = stream.read(&mut part)?;
        bytes.extend_from_slice(&part[..len]);
        if len == 0 || !bytes[0].is_ascii_uppercase() || bytes.len() > 64 << 10 {
            return Ok(None);
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok(String::from_utf8(bytes).ok().map(|head| (head, rest)));
        }
    }
}

fn parse(head: &str) -> Option<Request> {
    let mut first = head.lines().next()?.split(' ');
    let method = first.next()?.to_owned();
    let path = first.next()?.to_owned();
    Some(Request { method, path, range: field(head, "range").map(str::to_owned), bytes: 0 })
}

/// The length of the body that comes with the request.
fn request_len(head: &str) -> u64 {
    field(head, "content-length").and_then(|len| len.parse().ok()).unwrap_or(0)
}

fn field<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(wanted).then(|| value.trim())
    })
}

/// The request as the server gets it: it ends the connection, so that the body's end is the
/// stream's.
fn forwarded(head: &str, drops_range: bool) -> String {
    let kept = head.trim_end().lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        name != "connection" && !(drops_range && name == "range")
    });
    let mut request = String::new();
    for line in kept {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request + "Connection: close\r\n\r\n"
}

fn failure(status: u16) -> String {
    let extra = match status {
        401 => "WWW-Authenticate: Basic realm=\"fault\"\r\n",
        429 => "Retry-After: 1\r\n",
        _ => "",
    };
    format!("HTTP/1.1 {status} Fault\r\n{extra}Content-Length: 0\r\nConnection: close\r\n\r\n")
}
