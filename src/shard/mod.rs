//! A shard: one core, its listener, its connections, its part of each channel.
