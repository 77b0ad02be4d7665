//! Floor 2: decisions about one blob's swarm. No I/O, no clock, no randomness of its own.
