//! Floor 4: the threads round the swarms.
