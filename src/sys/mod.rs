//! System calls and the ring: the only module with `unsafe`, and without any policy.
