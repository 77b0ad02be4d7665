//! Several streams from upstream at once: of a delta, two files, as libostree itself would fetch
//! them; of any other blob, one more wherever a reader waits far from what comes next.
//!
//! One after the other, a client that waits for the second of two parts would hear nothing until
//! the first is there; on a slow line it would give up. And one that asks for several parts of a
//! layer at once, as containerd 2 can, would get all of them as slowly as one.

use crate::fetch::fill::{Fill, FillEnd, FillError};
use crate::fetch::stream::Stream;
use crate::limits;
use crate::proto::geometry::Span;
use crate::proto::ostree::layout::Layout;
use crate::upstream::UpstreamError;

/// A part of the blob on its way.
pub(super) struct Lane {
    pub(super) stream: Stream,
    /// The byte that comes next.
    pub(super) at: u64,
    /// The byte after the last that is wanted of it.
    pub(super) end: u64,
}

impl Fill {
    /// Brings all files that are missing, those first that readers wait for, then the others in
    /// order from byte `from` on. When one breaks, those that are on their way come to their end
    /// first: none is asked for again because of another.
    pub(super) fn files(&self, layout: &Layout, from: u64) -> Result<FillEnd, FillError> {
        let mut lanes: Vec<Lane> = Vec::new();
        let mut broken = None;
        let mut buf = vec![0; limits::COPY_LEN];
        loop {
            while broken.is_none()
                && lanes.len() < limits::DELTA_STREAMS
                && let Some((start, end)) = self.next_gap(layout, &lanes, from)
            {
                match Stream::open(&self.upstream, &self.place, start, Some(end)) {
                    Ok(stream) => lanes.push(Lane { at: stream.offset, stream, end }),
                    Err(error) => broken = Some(FillError::Upstream(error)),
                }
            }
            if lanes.is_empty() {
                return broken.map_or(Ok(FillEnd::Done), Err);
            }
            self.advance_all(&mut lanes, &mut broken, &mut buf)?;
            if self.is_left() {
                return Ok(FillEnd::Left);
            }
        }
    }

    /// Brings what `first` is for. What readers wait for far from there comes in streams of their
    /// own, and is taken off the one that would have brought it. One of several streams that breaks
    /// leaves a gap as any other, and opens no more.
    pub(super) fn apart(&self, first: Lane) -> Result<FillEnd, FillError> {
        let mut lanes = vec![first];
        let mut may_open = true;
        let mut buf = vec![0; limits::COPY_LEN];
        loop {
            while may_open
                && lanes.len() < limits::FILL_STREAMS
                && let Some((start, end)) = self.far_gap(&lanes)
            {
                match Stream::open(&self.upstream, &self.place, start, Some(end)) {
                    Ok(stream) if stream.offset == start => {
                        let behind = lanes.iter_mut().find(|lane| lane.has(start));
                        behind.into_iter().for_each(|lane| lane.end = start);
                        lanes.push(Lane { stream, at: start, end });
                    }
                    // Without ranges, or without an answer, there is the one that runs.
                    _ => may_open = false,
                }
            }
            let mut broken = None;
            self.advance_all(&mut lanes, &mut broken, &mut buf)?;
            if self.is_left() {
                return Ok(FillEnd::Left);
            }
            if lanes.is_empty() {
                return broken.map_or(Ok(FillEnd::Done), Err);
            }
            may_open &= broken.is_none();
        }
    }

    /// Takes what comes next of each of `lanes`, and keeps those that have not come to their end.
    /// What broke the last that broke is in `broken`.
    fn advance_all(
        &self,
        lanes: &mut Vec<Lane>,
        broken: &mut Option<FillError>,
        buf: &mut [u8],
    ) -> Result<(), FillError> {
        for mut lane in std::mem::take(lanes) {
            match self.advance(&mut lane, buf) {
                Ok(()) if self.is_left() => return Ok(()),
                Ok(()) if lane.at < lane.end => lanes.push(lane),
                Ok(()) => lane.stream.drain(),
                Err(error @ FillError::Store(_)) => return Err(error),
                Err(error) => *broken = Some(error),
            }
        }
        Ok(())
    }

    /// A gap that a reader waits for and that nothing on its way brings soon.
    fn far_gap(&self, lanes: &[Lane]) -> Option<(u64, u64)> {
        let feed = self.partial.feed();
        let far = |reader: u64| {
            let (start, end) = feed.gap_from(reader).filter(|(start, _)| *start == reader)?;
            let comes = lanes.iter().find(|lane| lane.has(start));
            if comes.is_some_and(|lane| start - lane.at < limits::FILL_FAR) {
                return None;
            }
            let next = lanes.iter().map(|lane| lane.at).filter(|at| *at > start).min();
            let bounds = [end, comes.map(|lane| lane.end), next];
            Some((start, bounds.into_iter().flatten().min()?))
        };
        feed.readers().into_iter().find_map(far)
    }

    /// Takes what comes next of a lane.
    fn advance(&self, lane: &mut Lane, buf: &mut [u8]) -> Result<(), FillError> {
        let room = usize::try_from(lane.end - lane.at).unwrap_or(usize::MAX).min(buf.len());
        let len = lane.stream.read(&mut buf[..room])?;
        if self.is_left() {
            return Ok(());
        }
        if len == 0 {
            return Err(FillError::Upstream(UpstreamError::WrongLength));
        }
        self.take(Span { offset: lane.at, len: len as u64 }, &buf[..len])?;
        lane.at += len as u64;
        Ok(())
    }

    /// The next run to ask for: missing, of one file, and not on its way.
    fn next_gap(&self, layout: &Layout, lanes: &[Lane], from: u64) -> Option<(u64, u64)> {
        let feed = self.partial.feed();
        let gap = |start: u64| {
            let (start, end) = feed.gap_from(start)?;
            let file = layout.span(layout.file_at(start)?)?;
            Some((start, end.unwrap_or(file.end()).min(file.end())))
        };
        let is_free = |(start, _): &(u64, u64)| !lanes.iter().any(|lane| lane.has(*start));
        let wanted = feed.readers().into_iter().filter_map(gap).find(is_free);
        wanted.or_else(|| free_gap(&gap, &is_free, from)).or_else(|| free_gap(&gap, &is_free, 0))
    }
}

impl Lane {
    /// Whether it is to bring this byte.
    fn has(&self, offset: u64) -> bool {
        (self.at..self.end).contains(&offset)
    }
}

/// The first gap at or after `start` that is free.
fn free_gap(
    gap: &impl Fn(u64) -> Option<(u64, u64)>,
    is_free: &impl Fn(&(u64, u64)) -> bool,
    mut start: u64,
) -> Option<(u64, u64)> {
    loop {
        let found = gap(start)?;
        if is_free(&found) {
            return Some(found);
        }
        start = found.1;
    }
}
