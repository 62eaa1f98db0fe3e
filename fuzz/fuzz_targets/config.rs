//! Configurations: a configuration that was written out reads back as the same one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcast::config::Config;

fuzz_target!(|text: &str| {
    let Ok(config) = toml::from_str::<Config>(text) else { return };
    let written = config.to_toml();
    let again: Config = toml::from_str(&written).unwrap_or_else(|error| panic!("{error}: {written}"));
    assert_eq!(config, again);
    let _ = config.namespace("orders:1");
});
