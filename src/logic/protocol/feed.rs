//! The feed's line protocol: one JSON object per line, both ways.
