//! Floor 3: the origins, and how they are asked.
