//! Floor 6: the front that HTTP clients see.
