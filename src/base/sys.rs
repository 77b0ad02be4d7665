//! What the standard library does not offer of Linux. The only module with `unsafe`.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Fills `bytes` from the kernel's generator.
///
/// # Panics
/// If the kernel has none, which Linux has had since 3.17.
pub fn random(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: the pointer and the length are those of one live, writable slice.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(count) => filled += count,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => panic!("getrandom: {}", io::Error::last_os_error()),
        }
    }
}

/// The name that this host has given itself (`uname(2)`).
#[must_use]
pub fn host_name() -> String {
    // SAFETY: all-zero bytes are a valid `utsname`; it is only written by the call.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `names` is a live `utsname` that the call fills.
    if check(unsafe { libc::uname(&raw mut names) }).is_err() {
        return String::new();
    }
    let bytes = names.nodename.iter().take_while(|byte| **byte != 0);
    let bytes: Vec<u8> = bytes.map(|byte| byte.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Raises the soft limit of open files to the hard limit and returns it.
///
/// # Errors
/// If the kernel refuses; the limit is as before.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live `rlimit` that the call fills.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a live `rlimit` that the call reads.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// Room of a file system in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What an unprivileged process may still use.
    pub available: u64,
}

/// The room of the file system that holds `path`.
///
/// # Errors
/// If `path` cannot be looked up.
pub fn space(path: &Path) -> io::Result<Space> {
    let file = File::open(path)?;
    // SAFETY: all-zero bytes are a valid `statvfs`; it is only written by the call.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `stat` is a live `statvfs` that the call fills.
    check(unsafe { libc::fstatvfs(file.as_raw_fd(), &raw mut stat) })?;
    let unit = stat.f_frsize;
    Ok(Space {
        total: unit.saturating_mul(stat.f_blocks),
        available: unit.saturating_mul(stat.f_bavail),
    })
}

/// Reserves `len` bytes of disk for `file` without changing its length, so that a full disk shows
/// now and not in the middle. File systems without the call are passed over silently.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`] or another failure of the file system.
pub fn reserve(file: &File, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let len = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
    loop {
        // SAFETY: the descriptor is open; the call takes no pointers.
        let result =
            unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, len) };
        match check(result) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
            done => return done,
        }
    }
}

/// Writes from `bufs` at `offset` without moving the file's cursor and says how many bytes it took
/// (`pwritev(2)`); of more buffers than the kernel takes at once, the first.
///
/// # Errors
/// The file system's.
pub fn write_vectored_at(file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    /// `UIO_MAXIOV` of the kernel.
    const BUFS_MAX: i32 = 1024;
    let count = i32::try_from(bufs.len()).map_or(BUFS_MAX, |count| count.min(BUFS_MAX));
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // SAFETY: an `IoSlice` has the layout of an `iovec`; `bufs` holds at least `count` live ones.
    let written = unsafe { libc::pwritev(file.as_raw_fd(), bufs.as_ptr().cast(), count, offset) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// Sends at most `len` bytes of `file` from `offset` on to `socket`, from the page cache and
/// without moving the file's cursor, and says how many went (`sendfile(2)`); none: the file ends
/// there.
///
/// # Errors
/// The socket's or the file system's; [`io::ErrorKind::InvalidInput`] if that cannot do it.
pub fn send_file(socket: BorrowedFd, file: &File, offset: u64, len: u64) -> io::Result<u64> {
    let mut offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    // SAFETY: both descriptors are open and `offset` is a live `off_t` that the call reads and
    // writes.
    let sent =
        unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &raw mut offset, len) };
    u64::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Reads from `socket` what is there, without waiting (`recv(2)`); none: the other side has ended.
///
/// # Errors
/// The socket's; [`io::ErrorKind::WouldBlock`] if nothing is there.
pub fn receive_now(socket: BorrowedFd, buf: &mut [u8]) -> io::Result<usize> {
    let (start, len) = (buf.as_mut_ptr().cast(), buf.len());
    // SAFETY: the pointer and the length are those of one live, writable slice.
    let got = unsafe { libc::recv(socket.as_raw_fd(), start, len, libc::MSG_DONTWAIT) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Makes the kernel keep those who connect to `listener` from being accepted until they have sent
/// something, or for a second if they do not (`TCP_DEFER_ACCEPT` of `tcp(7)`).
///
/// # Errors
/// If the kernel refuses.
pub fn defer_accept(listener: BorrowedFd) -> io::Result<()> {
    const LEN: libc::socklen_t = 4;
    const _: () = assert!(size_of::<libc::c_int>() == LEN as usize);
    let seconds: libc::c_int = 1;
    let value = (&raw const seconds).cast();
    let (fd, level, option) = (listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
    // SAFETY: the pointer and the length are those of a live integer that the call reads.
    check(unsafe { libc::setsockopt(fd, level, option, value, LEN) })
}

/// Datagrams that one call moves at most: so many that a call costs little for each.
pub const DATAGRAMS_MAX: usize = 64;

/// A datagram, and the address at its other end.
#[derive(Debug)]
pub struct Datagram {
    /// What it says.
    pub bytes: Vec<u8>,
    other: libc::sockaddr_storage,
    other_len: libc::socklen_t,
}

impl Datagram {
    /// An empty one, to be received or written.
    #[must_use]
    pub fn with_room(len: usize) -> Datagram {
        // SAFETY: all-zero bytes are a valid `sockaddr_storage`, of no family.
        let other = unsafe { std::mem::zeroed() };
        Datagram { bytes: Vec::with_capacity(len), other, other_len: 0 }
    }

    /// Where it came from. `None`: from nowhere, the socket is shut down.
    #[must_use]
    pub fn source(&self) -> Option<SocketAddr> {
        let (len, other) = (self.other_len as usize, &raw const self.other);
        match i32::from(self.other.ss_family) {
            libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: an address of this family and length is one, and it is as aligned.
                let v4 = unsafe { other.cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::from((ip, u16::from_be(v4.sin_port))))
            }
            libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above.
                let v6 = unsafe { other.cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddr::from((ip, u16::from_be(v6.sin6_port))))
            }
            _ => None,
        }
    }

    /// Makes this one go where `request` came from.
    pub fn answer(&mut self, request: &Datagram) {
        self.other = request.other;
        self.other_len = request.other_len;
    }
}

/// Waits for a datagram as long as the socket's timeout says, receives it and those that wait
/// behind it, at most [`DATAGRAMS_MAX`] and one for each of `datagrams`, and says how many those
/// are (`recvmmsg(2)`). What does not fit into the room of one is cut off.
///
/// # Errors
/// The socket's; [`io::ErrorKind::WouldBlock`] if none came in time.
pub fn receive_datagrams(socket: BorrowedFd, datagrams: &mut [Datagram]) -> io::Result<usize> {
    let count = datagrams.len().min(DATAGRAMS_MAX);
    // SAFETY: all-zero bytes are valid for both: null pointers and lengths of zero.
    let (mut headers, mut spans) =
        unsafe { std::mem::zeroed::<([libc::mmsghdr; DATAGRAMS_MAX], Spans)>() };
    for ((datagram, header), span) in datagrams.iter_mut().zip(&mut headers).zip(&mut spans) {
        datagram.bytes.clear();
        let room = datagram.bytes.spare_capacity_mut();
        (span.iov_base, span.iov_len) = (room.as_mut_ptr().cast(), room.len());
        header.msg_hdr.msg_name = (&raw mut datagram.other).cast();
        header.msg_hdr.msg_namelen = ADDRESS_LEN;
        header.msg_hdr.msg_iov = span;
        header.msg_hdr.msg_iovlen = 1;
    }
    // The C library's functions have other types, or call once for each datagram (musl).
    // SAFETY: the first `count` headers point to live and writable addresses and spans, whose
    // room is that of vectors that nobody else touches; there is no time-out to point to.
    let result = unsafe {
        let none = std::ptr::null_mut::<libc::timespec>();
        let (socket, headers) = (socket.as_raw_fd(), headers.as_mut_ptr());
        libc::syscall(libc::SYS_recvmmsg, socket, headers, count, libc::MSG_WAITFORONE, none)
    };
    let received = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    for (datagram, header) in datagrams.iter_mut().zip(&headers[..received]) {
        datagram.other_len = header.msg_hdr.msg_namelen;
        // SAFETY: the kernel has written so many bytes, which are at most the room it was given.
        unsafe { datagram.bytes.set_len(header.msg_len as usize) };
    }
    Ok(received)
}

/// Sends `datagrams`, at most [`DATAGRAMS_MAX`], to those that they answer, and says how many went
/// (`sendmmsg(2)`).
///
/// # Errors
/// The socket's, about the first of them.
pub fn send_datagrams(socket: BorrowedFd, datagrams: &[Datagram]) -> io::Result<usize> {
    let count = datagrams.len().min(DATAGRAMS_MAX);
    // SAFETY: all-zero bytes are valid for both: null pointers and lengths of zero.
    let (mut headers, mut spans) =
        unsafe { std::mem::zeroed::<([libc::mmsghdr; DATAGRAMS_MAX], Spans)>() };
    for ((datagram, header), span) in datagrams.iter().zip(&mut headers).zip(&mut spans) {
        span.iov_base = datagram.bytes.as_ptr().cast_mut().cast();
        span.iov_len = datagram.bytes.len();
        header.msg_hdr.msg_name = (&raw const datagram.other).cast_mut().cast();
        header.msg_hdr.msg_namelen = datagram.other_len;
        header.msg_hdr.msg_iov = span;
        header.msg_hdr.msg_iovlen = 1;
    }
    // As in `receive_datagrams`.
    // SAFETY: the first `count` headers point to live addresses and spans, which the call reads.
    let result = unsafe {
        let (socket, headers) = (socket.as_raw_fd(), headers.as_mut_ptr());
        libc::syscall(libc::SYS_sendmmsg, socket, headers, count, 0)
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Room for an address of any family.
const ADDRESS_LEN: libc::socklen_t = 128;
const _: () = assert!(size_of::<libc::sockaddr_storage>() == ADDRESS_LEN as usize);

type Spans = [libc::iovec; DATAGRAMS_MAX];

/// Makes the process that `command` starts get `SIGTERM` when its parent ends, whichever way. The
/// kernel counts the *thread* that starts it as the parent: it must live as long as the child is
/// to.
pub fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let before_exec = move || {
        // SAFETY: this `prctl` takes no pointers.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) })?;
        // The parent may have ended before the kernel was asked; then no signal comes.
        // SAFETY: the call takes nothing and cannot fail.
        if u32::try_from(unsafe { libc::getppid() }) != Ok(parent) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(())
    };
    // SAFETY: between `fork` and `exec` the closure makes two async-signal-safe calls; it neither
    // allocates nor takes a lock.
    unsafe { command.pre_exec(before_exec) };
}

/// Sets how readily the calling thread gives way to others (`nice(2)`: on Linux, each thread has
/// its own).
///
/// # Errors
/// If the kernel refuses, as it does a value below the present one.
pub fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })
}

/// Sends `signal` to a process of ours.
///
/// # Errors
/// If there is no such process or it is not ours.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the call takes no pointers.
    check(unsafe { libc::kill(pid, signal) })
}

/// Waits on many descriptors at once (`epoll(7)`). Entries are one-shot: after one was reported it
/// is silent until [`Epoll::rearm`]; but for those of [`Epoll::add_lasting`].
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// The most reports of one [`Epoll::wait`].
    pub const REPORTS_MAX: usize = 128;

    /// An empty set.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: the call takes no pointers.
        let raw = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        check(raw)?;
        // SAFETY: the descriptor is new, valid and owned by nobody else.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    /// Adds `fd`: report `token` once when it can be read or is closed by the other side.
    ///
    /// # Errors
    /// If `fd` is in the set already or the kernel's limit of watches is reached.
    pub fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, ONE_SHOT)
    }

    /// Adds `fd`: report `token` each time, for as long as it can be read.
    ///
    /// # Errors
    /// As [`Epoll::add`].
    pub fn add_lasting(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, libc::EPOLLIN)
    }

    /// Makes `fd`, which was reported, report again.
    ///
    /// # Errors
    /// If `fd` is not in the set.
    pub fn rearm(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, ONE_SHOT)
    }

    /// Takes `fd` out. Closing the last copy of a descriptor does that too.
    ///
    /// # Errors
    /// If `fd` is not in the set.
    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, operation: i32, fd: RawFd, token: u64, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: token };
        // SAFETY: the set is open and `event` is a live `epoll_event` that the call reads.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) })
    }

    /// Waits for reports, at most `patience`, and gives their tokens, at most
    /// [`Epoll::REPORTS_MAX`] at a time. None: none came, or a signal interrupted the wait.
    ///
    /// # Errors
    /// A failure of the kernel.
    pub fn wait(&self, patience: Duration) -> io::Result<impl Iterator<Item = u64> + use<>> {
        // Rounded up: a wait that ends a little early would spin until the deadline.
        let millis = i32::try_from(patience.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; Epoll::REPORTS_MAX];
        let room = i32::try_from(events.len()).unwrap_or(i32::MAX);
        // SAFETY: `events` has `room` live entries, as the call is told.
        let count =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), room, millis) };
        let count = match usize::try_from(count) {
            Ok(count) => count,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => 0,
                error => return Err(error),
            },
        };
        Ok(events.into_iter().take(count).map(|event| event.u64))
    }
}

const ONE_SHOT: i32 = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLONESHOT;

/// Wakes a thread that waits in [`Epoll::wait`] (`eventfd(2)`).
#[derive(Debug)]
pub struct Waker(File);

impl Waker {
    /// A waker that has not been used.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn new() -> io::Result<Waker> {
        // SAFETY: the call takes no pointers.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        check(raw)?;
        // SAFETY: the descriptor is new, valid and owned by nobody else.
        Ok(Waker(unsafe { File::from_raw_fd(raw) }))
    }

    /// The descriptor to add to the set.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Makes the descriptor readable.
    pub fn wake(&self) {
        use io::Write as _;
        // The only failure is a full counter: then it is readable already.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable again.
    pub fn clear(&self) {
        use io::Read as _;
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ() {
        let mut first = [0; 32];
        let mut second = [0; 32];
        random(&mut first);
        random(&mut second);
        assert_ne!(first, second);
    }

    #[test]
    fn the_host_has_the_name_that_the_kernel_shows() {
        let shown = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("/proc is there");
        assert_eq!(host_name(), shown.trim());
    }

    #[test]
    fn a_file_system_has_room() {
        let space = space(Path::new("/")).expect("the root can be looked up");
        assert!(space.total >= space.available && space.total > 0);
    }

    #[test]
    fn datagrams_come_and_are_answered_together_in_order() {
        use std::os::fd::AsFd as _;
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let socket = || std::net::UdpSocket::bind(any).expect("loopback has a free port");
            let (server, client) = (socket(), socket());
            let patience = Some(Duration::from_secs(10));
            client.set_read_timeout(patience).expect("it is no zero");
            client.connect(server.local_addr().expect("it is bound")).expect("loopback");
            let texts = [&b"one"[..], b"", b"longer than the room", b"last"];
            texts.iter().for_each(|text| assert_eq!(client.send(text).unwrap(), text.len()));
            let new = || Vec::from_iter((0..9).map(|_| Datagram::with_room(6)));
            let (mut requests, mut answers) = (new(), new());
            let received = receive_datagrams(server.as_fd(), &mut requests).expect("four wait");
            assert_eq!(received, texts.len());
            for ((request, answer), text) in requests.iter().zip(&mut answers).zip(texts) {
                assert_eq!(request.bytes, &text[..text.len().min(6)]);
                assert_eq!(request.source(), client.local_addr().ok());
                answer.bytes.extend([text.len().to_le_bytes()[0]]);
                answer.answer(request);
            }
            assert_eq!(send_datagrams(server.as_fd(), &answers[..received]).unwrap(), received);
            for text in texts {
                let mut answer = [0; 9];
                assert_eq!(client.recv(&mut answer).expect("it was sent"), 1);
                assert_eq!(usize::from(answer[0]), text.len());
            }
        }
    }

    #[test]
    fn epoll_reports_once_until_rearmed() {
        let epoll = Epoll::new().expect("a descriptor is free");
        let waker = Waker::new().expect("a descriptor is free");
        epoll.add(waker.fd(), 7).expect("a new descriptor");
        let wait = |patience| epoll.wait(patience).expect("an open set").collect::<Vec<u64>>();
        assert!(wait(Duration::ZERO).is_empty());
        waker.wake();
        assert_eq!(wait(Duration::MAX), [7]);
        assert!(wait(Duration::ZERO).is_empty());
        epoll.rearm(waker.fd(), 8).expect("it is in the set");
        assert_eq!(wait(Duration::ZERO), [8]);
        let lasting = Waker::new().expect("a descriptor is free");
        epoll.add_lasting(lasting.fd(), 9).expect("a new descriptor");
        lasting.wake();
        assert_eq!([wait(Duration::MAX), wait(Duration::MAX)], [[9], [9]]);
        lasting.clear();
        assert!(wait(Duration::ZERO).is_empty());
    }

    #[test]
    fn what_is_there_is_read_and_nothing_is_waited_for() {
        use std::io::Write as _;
        use std::os::fd::AsFd as _;
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
        let now = |buf: &mut [u8]| receive_now(ours.as_fd(), buf);
        let mut buf = [0; 8];
        assert_eq!(now(&mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        theirs.write_all(b"here").expect("it is read");
        assert_eq!((now(&mut buf[..3]).unwrap(), now(&mut buf[3..]).unwrap()), (3, 1));
        assert!(buf.starts_with(b"here"));
        drop(theirs);
        assert_eq!(now(&mut buf).unwrap(), 0);
    }
}
