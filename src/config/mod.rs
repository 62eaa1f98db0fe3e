//! What an operator may set: the TOML file, the environment and the flags, merged and checked.
