//! Pieces lent to the upstream: nobody else brings them, so that none is fetched twice.

use crate::base::clock::Time;
use crate::proto::geometry::{PieceIndex, Span};
use crate::swarm::interface::Action;
use crate::swarm::pieces::State;
use crate::swarm::swarm::Swarm;

impl Swarm {
    /// Answers with a run of pieces that nobody brings, or, if it may `steal`, that only links
    /// bring.
    pub(super) fn claim(
        &mut self,
        from: u64,
        max_len: u64,
        steal: bool,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let run = self.claimable_run(from, max_len, steal);
        let span = run.first().zip(run.last()).map(|(first, last)| {
            let (first, last) = (self.geometry().span(*first), self.geometry().span(*last));
            Span { offset: first.offset, len: last.end() - first.offset }
        });
        out.push(Action::Claimed { span });
        for piece in run {
            if self.pieces.state(piece) == State::InFlight {
                self.give_up(piece, out);
            }
            self.pieces.claim(piece);
        }
        // Links that lost pieces have room for others.
        self.fill_all(now, out);
    }

    fn claimable_run(&self, from: u64, max_len: u64, steal: bool) -> Vec<PieceIndex> {
        let geometry = self.geometry();
        let Some(first) = geometry.piece_at(from) else { return Vec::new() };
        let is_claimable = |piece: &PieceIndex| match self.pieces.state(*piece) {
            State::Missing => true,
            State::InFlight => steal || self.pieces.orphans().contains(piece),
            State::Claimed | State::Verifying | State::Stored => false,
        };
        let after = geometry.pieces().skip(first.index());
        let mut len = 0u64;
        let run = after.skip_while(|piece| !is_claimable(piece)).take_while(is_claimable);
        run.take_while(|piece| {
            let is_first = len == 0;
            len += geometry.span(*piece).len;
            is_first || len <= max_len
        })
        .collect()
    }

    /// What the upstream did not bring is missing again.
    pub(super) fn release(&mut self, span: Span, now: Time, out: &mut Vec<Action>) {
        let Some(first) = self.geometry().piece_at(span.offset) else { return };
        let geometry = *self.geometry();
        let after = geometry.pieces().skip(first.index());
        for piece in after.take_while(|piece| geometry.span(*piece).offset < span.end()) {
            self.pieces.release(piece);
        }
        self.fill_all(now, out);
    }
}
