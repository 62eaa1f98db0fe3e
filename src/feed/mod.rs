//! The feed: the Unix socket that publishers write to.
