//! What must hold for one swarm and any list of inputs. `tests/sim` tries it on seeded lists, the
//! fuzz target on everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use torrent_cache::base::clock::Time;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::limits::BLOCK_LEN;
use torrent_cache::proto::bitfield::Pieces;
use torrent_cache::proto::geometry::{Block, Geometry, PieceIndex, Span};
use torrent_cache::proto::peer::{Message, PeerId, RawBlock};
use torrent_cache::swarm::{Action, Config, Input, LinkId, Source, Swarm};

/// A list of inputs, as bytes: its invariants hold whatever comes in whatever order, and it takes
/// back nothing that it said.
pub fn swarm(input: &[u8]) {
    let mut model = Model::new(Choices::Listed(input.to_vec().into()));
    while !model.choices.are_over() {
        model.step();
    }
}

/// Where the choices come from.
pub enum Choices {
    /// From a generator: there is always another.
    Random(Rng),
    /// From a list, a byte for a choice among few, four for one among many.
    Listed(VecDeque<u8>),
}

impl Choices {
    fn are_over(&self) -> bool {
        matches!(self, Choices::Listed(bytes) if bytes.is_empty())
    }

    fn byte(&mut self) -> u8 {
        match self {
            Choices::Random(rng) => u8::try_from(rng.below(256)).expect("a byte"),
            Choices::Listed(bytes) => bytes.pop_front().unwrap_or(0),
        }
    }

    /// A number below `bound`; 0 if that is 0.
    fn below(&mut self, bound: u64) -> u64 {
        match self {
            Choices::Random(_) if bound == 0 => 0,
            Choices::Random(rng) => rng.below(bound),
            Choices::Listed(_) if bound <= 256 => u64::from(self.byte()) % bound.max(1),
            Choices::Listed(_) => {
                u64::from(u32::from_be_bytes([(); 4].map(|()| self.byte()))) % bound
            }
        }
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a length")
    }

    fn take<T>(&mut self, from: &mut Vec<T>) -> Option<T> {
        (!from.is_empty()).then(|| from.swap_remove(self.index(from.len())))
    }
}

const PIECES: u64 = 20;
const PIECE_LEN: u64 = 3 << 14;
/// Bytes of pieces that may be in flight at first.
const SHARE: u64 = 5 << 16;

/// One swarm and an engine without manners, but one that keeps its own side of the contract.
pub struct Model {
    choices: Choices,
    geometry: Geometry,
    /// Whether the hashes came with the torrent.
    hashes_known: bool,
    /// What links told of the hashes of pieces.
    hashed: BTreeMap<(LinkId, PieceIndex), Sha1Hash>,
    pub swarm: Swarm,
    pub now: Time,
    next_link: u64,
    pub links: BTreeSet<LinkId>,
    requested: Vec<(LinkId, RawBlock)>,
    /// Requests of peers that were not answered.
    owed: Vec<(LinkId, RawBlock)>,
    /// Pieces that are hashed, and whether what their units hash to is wanted.
    verifying: Vec<(PieceIndex, bool)>,
    sending: Vec<(LinkId, Block)>,
    dialling: Vec<SocketAddr>,
    claimed: Vec<Span>,
    /// Pieces of which blocks are kept, those with the disk as well, and the most bytes of such.
    held: BTreeSet<PieceIndex>,
    held_max: u64,
}

impl Model {
    pub fn new(mut choices: Choices) -> Model {
        let blob_len = PIECES * PIECE_LEN - 5;
        let geometry = Geometry::new(blob_len, 1 << 16).unwrap();
        let hashes_known = choices.below(4) > 0;
        let config = Config {
            links_max: 6,
            upload_slots: 2,
            bytes_in_flight_max: SHARE,
            reader_window: 2 << 16,
            hashes_known,
            ..Config::usual(PeerId([7; 20]))
        };
        let now = Time::after_start(Duration::from_secs(9));
        let have = Pieces::none(geometry);
        let swarm = Swarm::new(config, geometry, have, Rng::seeded(choices.below(1 << 32)), now);
        Model {
            choices,
            geometry,
            hashes_known,
            hashed: BTreeMap::new(),
            swarm,
            now,
            next_link: 0,
            links: BTreeSet::new(),
            requested: Vec::new(),
            owed: Vec::new(),
            verifying: Vec::new(),
            sending: Vec::new(),
            dialling: Vec::new(),
            claimed: Vec::new(),
            held: BTreeSet::new(),
            held_max: SHARE,
        }
    }

    fn number(&mut self) -> u32 {
        u32::try_from(self.choices.below(u64::from(self.geometry.piece_count()) + 1)).unwrap()
    }

    fn raw_block(&mut self) -> RawBlock {
        let begin = u32::try_from(self.choices.below(5)).unwrap() * BLOCK_LEN;
        let len = if self.choices.below(9) == 0 { 77 } else { BLOCK_LEN };
        RawBlock { piece: self.number(), begin, len }
    }

    /// A link that is up, or, now and then, one that never was.
    fn some_link(&mut self) -> LinkId {
        let known: Vec<LinkId> = self.links.iter().copied().collect();
        match known.get(self.choices.index(known.len() + 1)) {
            Some(link) => *link,
            None => LinkId(999_999),
        }
    }

    fn message(&mut self) -> Message {
        match self.choices.below(17) {
            0 => Message::Choke,
            1..=3 => Message::Unchoke,
            4 => Message::Interested,
            5 => Message::NotInterested,
            6 | 7 => Message::Have(self.number()),
            8 => {
                let mut bytes = vec![0; self.geometry.piece_count().div_ceil(8) as usize];
                bytes.iter_mut().for_each(|byte| *byte = self.choices.byte());
                if let Some(last) = bytes.last_mut() {
                    *last = 0;
                }
                Message::Bitfield(bytes)
            }
            9 => Message::HaveAll,
            10 => Message::HaveNone,
            11 | 12 => Message::Request(self.raw_block()),
            13 => Message::Cancel(self.raw_block()),
            14 => match self.requested.get(self.choices.index(self.requested.len())) {
                Some((_, block)) => Message::Reject(*block),
                None => Message::Reject(self.raw_block()),
            },
            15 => Message::AllowedFast(self.number()),
            _ => Message::Suggest(self.number()),
        }
    }

    /// Of a few pieces in a row, right ones as a rule.
    fn hashes(&mut self, link: LinkId) -> Input {
        let from = self.number();
        let until = from + u32::try_from(self.choices.index(6)).unwrap();
        let hash = Sha1Hash([u8::from(self.choices.below(8) == 0); 20]);
        Input::Hashes { link, hashes: (from..until).map(|number| (number, hash)).collect() }
    }

    /// What the units of a piece hash to, right ones as a rule.
    fn units(&mut self, piece: PieceIndex) -> Vec<Sha1Hash> {
        let units = self.geometry.blocks(piece, BLOCK_LEN);
        units.map(|_| Sha1Hash([u8::from(self.choices.below(8) == 0); 20])).collect()
    }

    fn link_up(&mut self) -> Input {
        self.next_link += 1;
        let n = u8::try_from(self.choices.below(9)).unwrap();
        let incoming = self.choices.below(2) == 0;
        let dialled = if incoming { None } else { self.dialling.pop() };
        let address = dialled.unwrap_or(SocketAddr::from(([10, 0, 0, n], 6881)));
        let link = LinkId(self.next_link);
        self.links.insert(link);
        let (fast, ours) = (self.choices.below(3) > 0, self.choices.below(2) == 0);
        Input::LinkUp { link, address, peer_id: PeerId([n; 20]), incoming, fast, ours }
    }

    fn input(&mut self) -> Input {
        let link = self.some_link();
        let offset = self.choices.below(PIECES * PIECE_LEN + 9);
        match self.choices.below(40) {
            0 | 1 => self.link_up(),
            2 => {
                self.links.remove(&link);
                self.owed.retain(|(of, _)| *of != link);
                Input::LinkDown { link }
            }
            3 => {
                let block_len_max = u32::try_from(self.choices.below(1 << 18)).unwrap();
                let requests_max = self.choices.index(10);
                Input::ExtHandshake { link, block_len_max, requests_max, listen_port: Some(6881) }
            }
            4..=13 => Input::Message { link, message: self.message() },
            14..=25 => match self.choices.take(&mut self.requested) {
                Some((link, block)) => Input::Block { link, block },
                None => Input::Block { link, block: self.raw_block() },
            },
            26..=28 => match self.choices.take(&mut self.verifying) {
                Some((piece, _)) if self.choices.below(4) == 0 => {
                    Input::Corrupt { piece, units: self.units(piece) }
                }
                Some((piece, true)) => {
                    self.verifying.push((piece, false));
                    Input::Proof { piece, units: self.units(piece) }
                }
                Some((piece, false)) => Input::Stored { piece },
                None => Input::Timeout,
            },
            29 => match self.choices.take(&mut self.sending) {
                Some((link, block)) => Input::BlockSent { link, block },
                None => self.hashes(link),
            },
            30 => Input::Readers { offsets: vec![offset / 2, offset] },
            31 => {
                let ip = u8::try_from(self.choices.below(9)).unwrap();
                let addresses = vec![SocketAddr::from(([10, 0, 0, ip], 6881))];
                Input::Candidates { addresses, source: Source::Tracker }
            }
            32 => match self.choices.take(&mut self.dialling) {
                Some(address) => Input::DialFailed { address },
                None => Input::AnnounceFailed,
            },
            33 => Input::Announced { interval: Duration::from_secs(self.choices.below(99)) },
            34 => {
                let steal = self.choices.below(2) == 0;
                Input::Claim { from: offset, max_len: self.choices.below(4 << 16), steal }
            }
            35 => match self.choices.take(&mut self.claimed) {
                Some(span) => Input::Release { span },
                None => Input::Release { span: Span { offset, len: 1 } },
            },
            36 => match self.claimed.last().and_then(|span| self.geometry.piece_at(span.offset)) {
                Some(piece) => Input::Stored { piece },
                None => Input::Timeout,
            },
            38 => self.hashes(link),
            37 => Input::Share { bytes_in_flight_max: self.choices.below(9 << 16) },
            _ => Input::Timeout,
        }
    }

    pub fn step(&mut self) {
        self.now = self.now + Duration::from_millis(self.choices.below(100));
        let input = self.input();
        let asks = matches!(input, Input::Block { .. });
        let claims = matches!(input, Input::Claim { .. });
        let stored = if let Input::Stored { piece } = input { Some(piece) } else { None };
        match &input {
            Input::Share { bytes_in_flight_max } => {
                self.held_max = self.held_max.max(*bytes_in_flight_max);
            }
            Input::Corrupt { piece, .. } => {
                self.held.remove(piece);
            }
            Input::Hashes { link, hashes } => {
                for (number, hash) in hashes {
                    if let Some(piece) = self.geometry.piece(*number) {
                        self.hashed.entry((*link, piece)).or_insert(*hash);
                    }
                }
            }
            _ => {}
        }
        if let Input::Message { link, message: Message::Request(block) } = input
            && self.links.contains(&link)
        {
            self.owed.push((link, block));
        }
        let mut out = Vec::new();
        self.swarm.handle(self.now, input, &mut out);
        self.swarm.check_invariants();
        let answers = |action: &Action| matches!(action, Action::Keep { .. } | Action::Drop);
        assert_eq!(out.first().is_some_and(answers), asks);
        let claimed = |action: &Action| matches!(action, Action::Claimed { .. });
        assert_eq!(out.first().is_some_and(claimed), claims);
        for action in out {
            self.act(action);
        }
        stored.map(|piece| self.held.remove(&piece));
        // One piece is always allowed.
        let held = self.held.iter().map(|piece| u64::from(self.geometry.len_of(*piece)));
        assert!(held.sum::<u64>() <= self.held_max.max(self.geometry.piece_len().into()));
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { link, message } => {
                assert!(self.links.contains(&link), "sent to a closed link");
                if let Message::Request(block) = message {
                    let piece = self.geometry.piece(block.piece);
                    let piece = piece.expect("it exists");
                    let told = self.hashed.contains_key(&(link, piece));
                    assert!(self.hashes_known || told, "it told no hash");
                    self.requested.push((link, block));
                }
            }
            Action::SendBlock { link, block } => {
                assert!(self.links.contains(&link));
                assert!(self.swarm.have().contains(block.piece()), "not stored");
                self.sending.push((link, block));
                let (piece, begin, len) = (block.piece().get(), block.begin(), block.len());
                self.answered(link, RawBlock { piece, begin, len });
            }
            Action::Refuse { link, block } => self.answered(link, block),
            Action::Keep { block } => {
                self.held.insert(block.piece());
            }
            Action::Verify { piece, hash, proof } => {
                assert_eq!(hash.is_none(), self.hashes_known);
                assert!(self.held.contains(&piece), "nothing held to verify");
                self.verifying.push((piece, proof));
            }
            Action::Discard { piece } => {
                assert!(self.held.remove(&piece), "nothing held to discard");
            }
            Action::Close { link, .. } => {
                assert!(self.links.remove(&link), "closed twice");
                self.requested.retain(|(of, _)| *of != link);
                self.owed.retain(|(of, _)| *of != link);
            }
            Action::Dial { address } => self.dialling.push(address),
            Action::Claimed { span } => self.claimed.extend(span),
            Action::Drop | Action::Ban { .. } | Action::Announce { .. } | Action::Complete => {}
        }
    }

    /// Each request is answered once.
    fn answered(&mut self, link: LinkId, block: RawBlock) {
        let asked = self.owed.iter().position(|owed| *owed == (link, block));
        self.owed.swap_remove(asked.expect("an answer to no request"));
    }
}
