//! An origin that answers as a test's script says, byte for byte: what no real server does when
//! told.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use socket2::SockRef;
use torrent_cache::proto::http1::Url;

use super::{PATIENCE, loopback};

/// What the origin does with one request, in order. After the last step it waits for the next one.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes again and again until the other side has enough.
    Repeat(Vec<u8>),
    /// Is silent until the end of the test.
    Stall,
    /// Closes the connection in order (FIN).
    Close,
    /// Breaks it (RST).
    Reset,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method, target and version.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as it came, chunks and all.
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

type Script = dyn Fn(&Request) -> Vec<Step> + Send + Sync;

/// A server on loopback. It ends with the value.
pub struct Origin {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<Script>,
    seen: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Origin {
    /// Answers each request with what `script` says for it.
    pub fn start(script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind(loopback(0)).expect("loopback has a free port");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            ended: Mutex::new(false),
            end: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { break };
                let serving = Arc::clone(&accepting);
                if *serving.ended.lock().unwrap_or_else(PoisonError::into_inner) {
                    break;
                }
                serving.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        Origin { addr, shared }
    }

    /// Answers every request with these steps.
    pub fn always(steps: Vec<Step>) -> Origin {
        Origin::start(move |_| steps.clone())
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self, target: &str) -> Url {
        Url::parse(&format!("http://{}{target}", self.addr)).expect("a URL")
    }

    /// The requests that came so far, in order.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        *self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.end.notify_all();
        let _ = TcpStream::connect(self.addr);
    }
}

impl Shared {
    /// Ends when the other side does, or the script says so.
    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let mut unread = Vec::new();
        while let Ok(request) = read_request(&mut stream, &mut unread) {
            let steps = (self.script)(&request);
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
            for step in steps {
                if !self.perform(&mut stream, step) {
                    return;
                }
            }
        }
    }

    /// Says whether the connection goes on.
    fn perform(&self, stream: &mut TcpStream, step: Step) -> bool {
        match step {
            Step::Send(bytes) => stream.write_all(&bytes).is_ok(),
            Step::Repeat(bytes) => {
                while stream.write_all(&bytes).is_ok() {}
                false
            }
            Step::Stall => {
                let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
                drop(self.end.wait_while(ended, |ended| !*ended));
                false
            }
            Step::Close => {
                let _ = stream.shutdown(Shutdown::Write);
                false
            }
            Step::Reset => {
                let _ = SockRef::from(&*stream).set_linger(Some(std::time::Duration::ZERO));
                false
            }
        }
    }
}

fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Request> {
    let end = read_until(stream, unread, b"\r\n\r\n")?;
    let head: Vec<u8> = unread.drain(..end).collect();
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().to_owned();
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let mut request =
        Request { line, headers: lines.filter_map(field).collect(), body: Vec::new() };
    let len = if request.header("transfer-encoding").is_some() {
        read_until(stream, unread, b"0\r\n\r\n")?
    } else {
        let len = request.header("content-length").map_or(0, |len| len.parse().unwrap_or(0));
        while unread.len() < len {
            read_some(stream, unread)?;
        }
        len
    };
    request.body = unread.drain(..len).collect();
    Ok(request)
}

/// Reads until `mark` has come, and says where it ends.
fn read_until(stream: &mut TcpStream, unread: &mut Vec<u8>, mark: &[u8]) -> io::Result<usize> {
    loop {
        if let Some(at) = unread.windows(mark.len()).position(|window| window == mark) {
            return Ok(at + mark.len());
        }
        read_some(stream, unread)?;
    }
}

fn read_some(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<()> {
    let mut buf = [0; 16 << 10];
    match stream.read(&mut buf)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => {
            unread.extend_from_slice(&buf[..count]);
            Ok(())
        }
    }
}

/// A step that sends a head, `lines` without their line ends, and then `body`.
pub fn answer(lines: &[&str], body: &[u8]) -> Step {
    let mut bytes = lines.join("\r\n").into_bytes();
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.extend_from_slice(body);
    Step::Send(bytes)
}

/// A step that answers 200 with a `Content-Length`.
pub fn whole(body: &[u8]) -> Step {
    answer(&["HTTP/1.1 200 OK", &format!("Content-Length: {}", body.len())], body)
}

/// A step that answers 206 with the bytes from `first` of `blob` on.
pub fn part(blob: &[u8], first: usize) -> Step {
    let (last, total) = (blob.len() - 1, blob.len());
    let range = format!("Content-Range: bytes {first}-{last}/{total}");
    let len = format!("Content-Length: {}", total - first);
    answer(&["HTTP/1.1 206 Partial Content", &range, &len], &blob[first..])
}

/// A step that sends the client to `url`.
pub fn redirect(url: &Url) -> Step {
    let location = format!("Location: {url}");
    answer(&["HTTP/1.1 307 Temporary Redirect", &location, "Content-Length: 4"], b"away")
}
