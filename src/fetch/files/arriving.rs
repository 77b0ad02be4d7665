//! An object too large for memory: to the client and to the disk while it comes.
//!
//! It is one part behind the upstream: the last part leaves only when the whole has come and is
//! right. An upstream that breaks off is asked for the rest.

use std::mem;
use std::sync::Arc;

use crate::base::figures;
use crate::fetch::Fetcher;
use crate::fetch::files::check::Check;
use crate::fetch::files::flight::Flight;
use crate::fetch::files::{FileKind, FileReadError, FileRequest};
use crate::limits;
use crate::log_limited;
use crate::proto::http1::Headers;
use crate::store::{FileMeta, FileWriter};
use crate::upstream::{Body, Origin, UpstreamError};

/// See the module.
pub struct Arriving {
    fetcher: Arc<Fetcher>,
    origin: Origin,
    kind: FileKind,
    body: Body,
    /// The fields of the first answer: the rest must be of the same file.
    headers: Headers,
    total: Option<u64>,
    writer: Option<FileWriter>,
    check: Option<Check>,
    /// Bytes that have come.
    came: u64,
    failures: u32,
    /// What came before the last read.
    ready: Vec<u8>,
    next: Vec<u8>,
    ended: bool,
    flight: Option<Flight>,
}

impl std::fmt::Debug for Arriving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arriving {{ {}, {} of {:?} }}", self.origin.url, self.came, self.total)
    }
}

impl Arriving {
    /// Takes over the answer `body` to `request`.
    pub fn new(
        fetcher: &Arc<Fetcher>,
        request: &FileRequest,
        meta: FileMeta,
        body: Body,
        flight: Flight,
    ) -> Arriving {
        let headers = meta.headers.clone();
        let writer = fetcher.store().begin_file(meta);
        let writer =
            writer.inspect_err(|error| log_limited!(warn, "a file is not kept: {error}")).ok();
        Arriving {
            fetcher: Arc::clone(fetcher),
            origin: request.origin.clone(),
            kind: request.kind,
            total: body.total,
            body,
            headers,
            writer,
            check: Check::of(request.kind),
            came: 0,
            failures: 0,
            ready: Vec::new(),
            next: Vec::new(),
            ended: false,
            flight: Some(flight),
        }
    }

    /// As [`super::FileReader::next_part`].
    pub fn next_part(&mut self) -> Result<&[u8], FileReadError> {
        if self.ended {
            self.ready.clear();
            return Ok(&self.ready);
        }
        mem::swap(&mut self.ready, &mut self.next);
        if self.ready.is_empty() {
            self.read().map_err(|error| error.to_string())?;
            mem::swap(&mut self.ready, &mut self.next);
        }
        self.read().map_err(|error| error.to_string())?;
        if self.next.is_empty() {
            self.ended = true;
            self.finish()?;
        }
        Ok(&self.ready)
    }

    /// Fills `next`; it stays empty at the end.
    fn read(&mut self) -> Result<(), UpstreamError> {
        self.next.resize(limits::COPY_LEN, 0);
        let mut len = 0;
        while len < self.next.len() {
            match self.body.read(&mut self.next[len..]) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) => {
                    self.came += len as u64;
                    self.take(len);
                    return self.resume(error, len);
                }
            }
        }
        self.came += len as u64;
        self.take(len);
        Ok(())
    }

    /// Cuts `next` to what came of it, which goes to the disk and through the hash.
    fn take(&mut self, len: usize) {
        self.next.truncate(len);
        if let Some(flight) = self.flight.as_ref().filter(|_| len > 0) {
            flight.gets_on();
        }
        if let Some(check) = &mut self.check {
            check.update(&self.next);
        }
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.write(&self.next)
        {
            log_limited!(warn, "a file is passed on, not kept: {error}");
            self.writer = None;
        }
    }

    /// Asks for the rest after a failure; if nothing had come before it, reads on.
    fn resume(&mut self, error: UpstreamError, len: usize) -> Result<(), UpstreamError> {
        if len > 0 {
            self.failures = 0;
        }
        let mut error = error;
        let mut pause = limits::FILE_RETRY_PAUSE;
        while self.failures < limits::FILE_ATTEMPTS_MAX {
            self.failures += 1;
            log_limited!(warn, "{}: the rest is asked for: {error}", self.origin.url);
            match self.fetcher.upstream().blob(&self.origin, self.came, None) {
                Ok(body) if self.is_rest(&body) => {
                    self.body = body;
                    return if len > 0 { Ok(()) } else { self.read() };
                }
                Ok(_) => return Err(UpstreamError::WrongRange),
                Err(other) => error = other,
            }
            if self.fetcher.stop.wait_for(pause) {
                return Err(UpstreamError::Stopped);
            }
            pause *= 2;
        }
        Err(error)
    }

    /// Whether `body` goes on where the last one ended, in the same file.
    fn is_rest(&self, body: &Body) -> bool {
        let same = |field| body.headers.get(field) == self.headers.get(field);
        body.offset == self.came
            && body.total == self.total
            && same("ETag")
            && same("Last-Modified")
    }

    /// Checks the whole and keeps it.
    fn finish(&mut self) -> Result<(), FileReadError> {
        if self.check.take().is_some_and(|check| !check.ends_right()) {
            figures::MISMATCHES_UPSTREAM.add(1);
            return Err("the bytes of the object are not those of its name".to_owned());
        }
        if self.total.is_some_and(|total| total != self.came) {
            return Err("the object has not its declared length".to_owned());
        }
        match self.writer.take().map(FileWriter::commit) {
            Some(Ok(())) => {
                self.fetcher.came(self.kind, &self.origin.url.to_string(), self.came);
                self.flight.take().into_iter().for_each(Flight::land);
            }
            Some(Err(error)) => log_limited!(warn, "a file is passed on, not kept: {error}"),
            None => {}
        }
        Ok(())
    }
}
