//! A connection whose other side may answer before it has read all that it is sent.
//!
//! A server that refuses an upload, most often as too large, answers at once and breaks off: the
//! next write fails, while its answer lies here unread. ureq gives up at a write that fails. So
//! one is passed over if the other side has said something, and so are all that follow: ureq reads
//! the answer when it believes that the whole body has left.

use std::fmt;
use std::io::ErrorKind;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, NextTimeout, Transport};

/// A transport that is listened to when it takes no more.
pub(super) struct Answering<T> {
    inner: T,
    /// What is written from now on is dropped.
    has_answered: bool,
}

impl<T> Answering<T> {
    pub(super) fn new(inner: T) -> Answering<T> {
        Answering { inner, has_answered: false }
    }
}

impl<T> fmt::Debug for Answering<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answering")
    }
}

impl<T: Transport> Transport for Answering<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.has_answered {
            return Ok(());
        }
        match self.inner.transmit_output(amount, timeout) {
            Err(Error::Io(error)) if is_broken(error.kind()) => {
                // It does not wait: nothing can come any more but what is here.
                self.has_answered = self.inner.await_input(timeout).unwrap_or(false);
                if self.has_answered { Ok(()) } else { Err(Error::Io(error)) }
            }
            sent => sent,
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        !self.has_answered && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// Whether the other side has ended the connection.
fn is_broken(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}
