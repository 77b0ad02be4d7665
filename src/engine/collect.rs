//! The blocks of pieces in flight, held until their piece is whole.

use std::collections::BTreeMap;

use crate::engine::pool::Buffer;
use crate::proto::geometry::{Block, PieceIndex};

/// The blocks of one swarm that came and were kept, by piece and place.
#[derive(Debug, Default)]
pub(super) struct Collect {
    pieces: BTreeMap<PieceIndex, BTreeMap<u32, Buffer>>,
}

impl Collect {
    /// Holds the bytes of `block`.
    pub(super) fn keep(&mut self, block: Block, body: Buffer) {
        self.pieces.entry(block.piece()).or_default().insert(block.begin(), body);
    }

    /// Hands out the blocks of `piece`, in order.
    pub(super) fn take(&mut self, piece: PieceIndex) -> Vec<Buffer> {
        self.pieces.remove(&piece).unwrap_or_default().into_values().collect()
    }
}
