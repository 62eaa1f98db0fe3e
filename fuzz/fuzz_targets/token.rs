//! Tokens: no unsigned text is accepted, and the verifier panics on no claims of a signed token.
#![no_main]

use std::sync::LazyLock;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use libfuzzer_sys::fuzz_target;
use ringcast::logic::auth::{KeyMaterial, Keyring, Rules};

const NOW: u64 = 1_700_000_000;

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    let mut keyring = Keyring::new(Rules { leeway_s: 5, ..Rules::default() });
    keyring.add(None, "HS256", &KeyMaterial::Secret(b"a secret that the fuzzer does not know".to_vec())).unwrap();
    keyring
});

fuzz_target!(|text: &str| {
    assert!(KEYRING.verify(text, NOW).is_err(), "an unsigned token must be refused");
    // The same text is signed as claims.
    let Ok(claims) = serde_json(text) else { return };
    let key = EncodingKey::from_secret(b"a secret that the fuzzer does not know");
    let Ok(token) = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key) else { return };
    if let Ok(identity) = KEYRING.verify(&token, NOW) {
        assert!(identity.expires_s > NOW);
        let _ = identity.grants.may_subscribe("orders:1", identity.user.as_deref());
        assert!(KEYRING.verify(&token, identity.expires_s).is_err(), "a token must be refused at its expiry");
    }
});

fn serde_json(text: &str) -> Result<toml::Table, toml::de::Error> {
    // TOML parses into a table that can serve as claims; the name is that of the usual parser.
    toml::from_str(text)
}
