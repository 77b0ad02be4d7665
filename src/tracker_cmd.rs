//! Floor 7: `torrent-cache tracker`: its options, its wiring, its start and stop order.
