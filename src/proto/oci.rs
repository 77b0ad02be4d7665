//! Paths and errors of the OCI distribution specification.
