//! Floor 3: owns every byte on disk; nobody else sees a path.
