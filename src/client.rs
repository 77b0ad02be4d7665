//! Floor 7: `torrent-cache client`: its options, its wiring, its start and stop order.
