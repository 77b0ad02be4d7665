//! Floor 3: etcd as this program sees it: blob name to `.torrent`.
