//! The swarm of one blob as this host sees it.

use crate::base::clock::Time;
use crate::base::rng::Rng;
use crate::proto::bitfield::Pieces;
use crate::proto::geometry::Geometry;
use crate::swarm::interface::{Action, Config, Input};

/// The swarm of one blob as this host sees it.
#[derive(Debug)]
pub struct Swarm {
    geometry: Geometry,
    have: Pieces,
}

impl Swarm {
    /// A swarm without links, of which this host has the pieces `have`.
    #[must_use]
    pub fn new(config: Config, geometry: Geometry, have: Pieces, rng: Rng, now: Time) -> Swarm {
        let _ = (config, rng, now);
        Swarm { geometry, have }
    }

    /// How the blob is cut into pieces.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The stored pieces.
    #[must_use]
    pub fn have(&self) -> &Pieces {
        &self.have
    }

    /// Whether all pieces are stored.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.have.is_full()
    }

    /// Takes in what happened and appends what is to be done to `out`.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Action>) {
        let _ = now;
        match input {
            Input::Stored { piece } => {
                if self.have.insert(piece) && self.have.is_full() {
                    out.push(Action::Complete);
                }
            }
            Input::Block { .. } => out.push(Action::Drop),
            Input::Claim { .. } => out.push(Action::Claimed { span: None }),
            _ => {}
        }
    }

    /// When [`Input::Timeout`] is due, if ever.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }
}
