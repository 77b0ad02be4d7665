//! The JSON of etcd's v3 gateway.
