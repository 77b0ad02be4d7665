//! The bytes of a blob as its upstream has them: one response, or, of a static delta, which is
//! several files there, one response after the other.

use std::sync::Arc;

use crate::proto::ostree::layout::{Layout, file_name};
use crate::upstream::{Body, Origin, Upstream, UpstreamError};

/// Where a blob lives, and as which files.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The blob, or the superblock of a delta.
    pub(super) origin: Origin,
    /// The files of a delta.
    pub(super) layout: Option<Arc<Layout>>,
}

impl Place {
    /// Where the `index`-th file of the delta is whose superblock is at `superblock`.
    pub(super) fn file(superblock: &Origin, index: usize) -> Origin {
        let mut origin = superblock.clone();
        let dir = origin.url.target.rfind('/').map_or(0, |slash| slash + 1);
        origin.url.target.truncate(dir);
        origin.url.target.push_str(&file_name(index));
        origin
    }
}

/// Bytes from upstream, in order.
pub(super) struct Stream {
    /// The first byte that comes: what was asked for, or the start of its file if the upstream does
    /// not do ranges.
    pub(super) offset: u64,
    /// The length of the whole blob, if it is known.
    pub(super) total: Option<u64>,
    body: Body,
    files: Option<Files>,
}

/// The files of a delta behind the one that is being read.
struct Files {
    upstream: Arc<Upstream>,
    origin: Origin,
    layout: Arc<Layout>,
    /// The file that is being read, and how much of it is still to come.
    index: usize,
    left: u64,
    /// The byte of the blob after the last that is wanted.
    end: u64,
    at: u64,
}

impl Stream {
    /// A response that is open already, of a blob that is one file.
    pub(super) fn of_body(body: Body) -> Stream {
        Stream { offset: body.offset, total: body.total, body, files: None }
    }

    /// Asks for the bytes from `first` up to but not including `end`; `None`: to the last.
    ///
    /// # Errors
    /// As [`Upstream::blob`].
    pub(super) fn open(
        upstream: &Arc<Upstream>,
        place: &Place,
        first: u64,
        end: Option<u64>,
    ) -> Result<Stream, UpstreamError> {
        let Some(layout) = &place.layout else {
            return Ok(Stream::of_body(upstream.blob(&place.origin, first, end)?));
        };
        let end = end.unwrap_or(layout.len()).min(layout.len());
        let index = layout.file_at(first).ok_or(UpstreamError::WrongRange)?;
        let mut files = Files {
            upstream: Arc::clone(upstream),
            origin: place.origin.clone(),
            layout: Arc::clone(layout),
            index,
            left: 0,
            end,
            at: first,
        };
        let body = files.open(index)?;
        Ok(Stream { offset: files.at, total: Some(layout.len()), body, files: Some(files) })
    }

    /// Reads what has come, at least one byte unless the stream has ended or `buf` is empty.
    ///
    /// # Errors
    /// As [`Body::read`], and if a file of a delta has not its length.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> Result<usize, UpstreamError> {
        let Some(files) = &mut self.files else { return self.body.read(buf) };
        if files.left == 0 {
            // The connection is used again only if the response was read to its end.
            let _ = self.body.read(&mut [0; 1]);
            if files.at >= files.end {
                return Ok(0);
            }
            self.body = files.open(files.index + 1)?;
        }
        let room = usize::try_from(files.left).unwrap_or(usize::MAX).min(buf.len());
        let len = self.body.read(buf.get_mut(..room).unwrap_or_default())?;
        if len == 0 && room > 0 {
            return Err(files.ended_early(&self.body));
        }
        files.left -= len as u64;
        files.at += len as u64;
        Ok(len)
    }
}

impl Stream {
    /// Reads past the end, so that the connection can be used again.
    pub(super) fn drain(&mut self) {
        let _ = self.body.read(&mut [0; 1]);
    }
}

impl Files {
    /// Asks for what is wanted of the `index`-th file, from `at` on, and stands at its first byte.
    fn open(&mut self, index: usize) -> Result<Body, UpstreamError> {
        let span = self.layout.span(index).ok_or(UpstreamError::WrongRange)?;
        let first = self.at - span.offset;
        let until = Some(self.end - span.offset).filter(|until| *until < span.len);
        let origin = Place::file(&self.origin, index);
        let body = self.upstream.blob(&origin, first, until)?;
        if let Some(told) = body.total.filter(|total| *total != span.len) {
            return Err(UpstreamError::OtherLength { known: span.len, told });
        }
        self.index = index;
        self.at = span.offset + body.offset;
        self.left = until.unwrap_or(span.len) - body.offset;
        Ok(body)
    }

    /// What it means that `body`, whose length was not declared, ended before its file did.
    fn ended_early(&self, body: &Body) -> UpstreamError {
        match self.layout.span(self.index) {
            Some(span) if body.framed => {
                UpstreamError::OtherLength { known: span.len, told: self.at - span.offset }
            }
            _ => UpstreamError::WrongLength,
        }
    }
}
