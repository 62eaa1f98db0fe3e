use jsonwebtoken::{EncodingKey, Header as JwtHeader};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_000_000;

macro_rules! key {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/", $name))
    };
}

fn signing_key(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => EncodingKey::from_secret(b"secret"),
        Algorithm::ES256 => EncodingKey::from_ec_pem(key!("es256.pem")).unwrap(),
        Algorithm::ES384 => EncodingKey::from_ec_pem(key!("es384.pem")).unwrap(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(key!("ed25519.pem")).unwrap(),
        _ => EncodingKey::from_rsa_pem(key!("rsa.pem")).unwrap(),
    }
}

fn material(algorithm: Algorithm) -> KeyMaterial {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => KeyMaterial::Secret(b"secret".to_vec()),
        Algorithm::ES256 => KeyMaterial::Pem(key!("es256.pub.pem").to_vec()),
        Algorithm::ES384 => KeyMaterial::Pem(key!("es384.pub.pem").to_vec()),
        Algorithm::EdDSA => KeyMaterial::Pem(key!("ed25519.pub.pem").to_vec()),
        _ => KeyMaterial::Pem(key!("rsa.pub.pem").to_vec()),
    }
}

fn sign(algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let header = JwtHeader { kid: kid.map(str::to_owned), ..JwtHeader::new(algorithm) };
    jsonwebtoken::encode(&header, claims, &signing_key(algorithm)).unwrap()
}

const ALL: [Algorithm; 12] = [
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

fn keyring_of(algorithm: Algorithm, rules: Rules) -> Keyring {
    let mut keyring = Keyring::new(rules);
    keyring.add(None, &format!("{algorithm:?}"), &material(algorithm)).unwrap();
    keyring
}

fn verify(claims: &Value, rules: Rules) -> Result<Identity, TokenError> {
    keyring_of(Algorithm::HS256, rules).verify(&sign(Algorithm::HS256, None, claims), NOW)
}

#[test]
fn each_algorithm_verifies_its_own_tokens_and_no_others() {
    let claims = json!({ "exp": NOW + 1 });
    for signed in ALL {
        let token = sign(signed, None, &claims);
        for known in ALL {
            let result = keyring_of(known, Rules::default()).verify(&token, NOW);
            assert_eq!(result.is_ok(), signed == known, "{signed:?} by a key for {known:?}: {result:?}");
        }
    }
}

#[test]
fn the_token_never_chooses_how_it_is_verified() {
    let claims = json!({ "exp": NOW + 1 });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let keyring = keyring_of(Algorithm::RS256, Rules::default());
    for alg in ["none", "None", "", "HS256", "RS999"] {
        for signature in ["", "AAAA"] {
            let token = format!("{}.{}.{signature}", encode(&json!({ "alg": alg, "typ": "JWT" })), encode(&claims));
            assert_eq!(keyring.verify(&token, NOW), Err(TokenError::NoKey), "{alg}");
        }
    }
    // An attacker may use the public key as an HMAC secret.
    let key = EncodingKey::from_secret(key!("rsa.pub.pem"));
    let forged = jsonwebtoken::encode(&JwtHeader::new(Algorithm::HS256), &claims, &key).unwrap();
    assert_eq!(keyring.verify(&forged, NOW), Err(TokenError::NoKey));
    let critical = format!("{}.{}.AAAA", encode(&json!({ "alg": "RS256", "crit": ["b64"] })), encode(&claims));
    assert_eq!(keyring.verify(&critical, NOW), Err(TokenError::Critical));
}

#[test]
fn a_changed_token_is_refused() {
    let token = sign(Algorithm::ES256, None, &json!({ "exp": NOW + 1, "sub": "u" }));
    let keyring = keyring_of(Algorithm::ES256, Rules::default());
    assert!(keyring.verify(&token, NOW).is_ok());
    let (head, rest) = token.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let other = URL_SAFE_NO_PAD.encode(json!({ "exp": NOW + 9, "sub": "root" }).to_string());
    assert_eq!(keyring.verify(&format!("{head}.{other}.{signature}"), NOW), Err(TokenError::Signature));
    for bad in ["", ".", "..", "a.b", "a.b.c", &token[..token.len() - 1], &format!("{token}.x"), &"a".repeat(20_000)] {
        assert!(keyring.verify(bad, NOW).is_err(), "{bad:.20}");
    }
}

#[test]
fn claims_are_judged_by_the_rules() {
    let none = Rules::default;
    let leeway = || Rules { leeway_s: 10, ..Rules::default() };
    let any = || Rules { audiences: vec!["any".into()], ..Rules::default() };
    let one = || Rules { audiences: vec!["here".into()], ..Rules::default() };
    let strict = || Rules {
        issuers: vec!["a".into(), "b".into()],
        audiences: vec!["here".into(), "there".into()],
        ..Rules::default()
    };
    let exp = NOW + 5;
    for (claims, rules, expected) in [
        (json!({}), none(), Some(TokenError::NoExpiry)),
        (json!({ "exp": NOW }), none(), Some(TokenError::Expired)),
        (json!({ "exp": NOW + 1 }), none(), None),
        (json!({ "exp": NOW - 9 }), leeway(), None),
        (json!({ "exp": NOW - 10 }), leeway(), Some(TokenError::Expired)),
        (json!({ "exp": exp, "nbf": NOW }), none(), None),
        (json!({ "exp": exp, "nbf": NOW + 1 }), none(), Some(TokenError::NotYet)),
        (json!({ "exp": exp, "nbf": NOW + 10 }), leeway(), None),
        (json!({ "exp": (exp as f64) + 0.5 }), none(), None),
        (json!({ "exp": exp.to_string() }), none(), Some(TokenError::Claims)),
        (json!({ "exp": -5 }), none(), Some(TokenError::Claims)),
        (json!({ "exp": exp, "sub": 5 }), none(), Some(TokenError::Claims)),
        (json!({ "exp": exp, "channels": { "a": 1 } }), none(), Some(TokenError::Claims)),
        (json!({ "exp": 1e15 }), none(), None),
        (json!({ "exp": 1.1e15 }), none(), Some(TokenError::Claims)),
        (json!({ "exp": exp, "nbf": -5 }), none(), Some(TokenError::Claims)),
        (json!({ "exp": exp, "nbf": NOW + 11 }), leeway(), Some(TokenError::NotYet)),
        (json!({ "exp": exp, "sub": "x".repeat(255), "jti": "x".repeat(255) }), none(), None),
        (json!({ "exp": exp, "sub": "x".repeat(256) }), none(), Some(TokenError::TooLong)),
        (json!({ "exp": exp, "jti": "x".repeat(256) }), none(), Some(TokenError::TooLong)),
        (json!({ "exp": exp, "aud": "elsewhere" }), none(), Some(TokenError::Audience)),
        (json!({ "exp": exp, "aud": ["elsewhere"] }), any(), None),
        (json!({ "exp": exp }), any(), None),
        (json!({ "exp": exp, "aud": "here" }), one(), None),
        (json!({ "exp": exp, "aud": "any" }), one(), Some(TokenError::Audience)),
        (json!({ "exp": exp, "iss": "b", "aud": "there" }), strict(), None),
        (json!({ "exp": exp, "iss": "b", "aud": ["x", "here"] }), strict(), None),
        (json!({ "exp": exp, "iss": "c", "aud": "here" }), strict(), Some(TokenError::Issuer)),
        (json!({ "exp": exp, "aud": "here" }), strict(), Some(TokenError::Issuer)),
        (json!({ "exp": exp, "iss": "a" }), strict(), Some(TokenError::Audience)),
        (json!({ "exp": exp, "iss": "a", "aud": ["x"] }), strict(), Some(TokenError::Audience)),
    ] {
        assert_eq!(verify(&claims, rules).err(), expected, "{claims}");
    }
    let claims = json!({ "exp": exp, "sub": "u", "jti": "t", "channels": ["user:{sub}"], "publish": "chat" });
    let identity = verify(&claims, none()).unwrap();
    assert_eq!((identity.user.as_deref(), identity.token.as_deref(), identity.expires_s), (Some("u"), Some("t"), exp));
    assert!(identity.grants.may_subscribe("user:u", Some("u")) && identity.grants.may_publish("chat", None));
    let identity = verify(&json!({ "exp": exp, "sub": "" }), leeway()).unwrap();
    assert_eq!((identity.user, identity.token, identity.expires_s), (None, None, exp + 10));
}

#[test]
fn a_token_of_16_kib_is_looked_at_and_a_longer_one_is_not() {
    let keyring = keyring_of(Algorithm::HS256, Rules::default());
    let token_of = |length: usize| {
        // Base64 without padding does not have every length, so the key's id adds the missing bytes.
        let mut tokens = ["", "k", "kk"].into_iter().flat_map(|id| {
            (length * 3 / 4 - 200..length * 3 / 4).map(move |fill| {
                let claims = json!({ "exp": NOW + 1, "fill": "x".repeat(fill) });
                sign(Algorithm::HS256, Some(id), &claims)
            })
        });
        tokens.find(|token| token.len() == length).unwrap()
    };
    assert!(keyring.verify(&token_of(16 * 1024), NOW).is_ok());
    assert_eq!(keyring.verify(&token_of(16 * 1024 + 1), NOW), Err(TokenError::Malformed));
}

#[test]
fn keys_are_chosen_by_their_id() {
    let mut keyring = Keyring::new(Rules::default());
    keyring.add(Some("one".into()), "HS256", &KeyMaterial::Secret(b"other".to_vec())).unwrap();
    keyring.add(Some("two".into()), "HS256", &KeyMaterial::Secret(b"secret".to_vec())).unwrap();
    let claims = json!({ "exp": NOW + 1 });
    let result = |kid| keyring.verify(&sign(Algorithm::HS256, kid, &claims), NOW).err();
    assert_eq!(result(Some("two")), None);
    assert_eq!(result(Some("one")), Some(TokenError::Signature));
    assert_eq!(result(Some("three")), Some(TokenError::NoKey));
    assert_eq!(result(None), None, "a token that names none may be of any");
}

#[test]
fn sets_of_keys_are_read() {
    let secret = URL_SAFE_NO_PAD.encode("secret");
    let set = json!({ "keys": [
        { "kty": "oct", "kid": "h", "alg": "HS512", "k": secret },
        { "kty": "oct", "kid": "d", "k": secret },
        { "kty": "oct", "kid": "e", "use": "enc", "alg": "HS256", "k": secret },
    ]});
    let mut keyring = Keyring::new(Rules::default());
    let left_out = keyring.add_set(set.to_string().as_bytes()).unwrap();
    assert_eq!((keyring.len(), keyring.is_empty()), (2, false));
    assert!(matches!(left_out[..], [LeftOut { index: 2, error: KeyError::ForEncryption, .. }]), "{left_out:?}");
    let claims = json!({ "exp": NOW + 1 });
    let verify = |algorithm, kid| keyring.verify(&sign(algorithm, Some(kid), &claims), NOW).err();
    assert_eq!(verify(Algorithm::HS512, "h"), None);
    assert_eq!(verify(Algorithm::HS256, "h"), Some(TokenError::NoKey), "the key says which algorithm");
    assert_eq!(verify(Algorithm::HS256, "d"), None);
    assert_eq!(verify(Algorithm::HS256, "e"), Some(TokenError::NoKey));
    for bad in ["", "{}", "[]", r#"{"keys":[{"kty":"EC"}]}"#, r#"{"keys":[{"kty":"oct","alg":"RSA-OAEP","k":"AA"}]}"#] {
        assert!(Keyring::default().add_set(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(Keyring::default().add_set(br#"{"keys":[]}"#).unwrap().is_empty(), "an issuer may have no keys at all");
}

/// A public key of `tests/keys` as a JSON Web Key (RFC 7517, RFC 7518 §6, RFC 8037 §2).
fn jwk(algorithm: Algorithm) -> Value {
    let KeyMaterial::Pem(pem) = material(algorithm) else { panic!("{algorithm:?} has no public key") };
    let text = String::from_utf8(pem).unwrap();
    let base64: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
    // The key's numbers are at the end of the DER text.
    let last = |count: usize| &der[der.len() - count..];
    let point = |curve: &str, size: usize| {
        let (x, y) = last(2 * size).split_at(size);
        json!({ "kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
    };
    match algorithm {
        Algorithm::ES256 => point("P-256", 32),
        Algorithm::ES384 => point("P-384", 48),
        Algorithm::EdDSA => json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(last(32)) }),
        // The modulus is followed by the exponent 65537 with its tag and length.
        _ => json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(&last(256 + 5)[..256]), "e": "AQAB" }),
    }
}

#[test]
fn a_key_of_a_set_without_an_algorithm_has_the_usual_one_of_its_kind() {
    let claims = json!({ "exp": NOW + 1 });
    for usual in [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::RS256] {
        let mut keyring = Keyring::default();
        assert!(keyring.add_set(json!({ "keys": [jwk(usual)] }).to_string().as_bytes()).unwrap().is_empty());
        for signed in ALL {
            let result = keyring.verify(&sign(signed, None, &claims), NOW);
            assert_eq!(result.is_ok(), signed == usual, "{signed:?} by a key for {usual:?}: {result:?}");
        }
    }
}

#[test]
fn a_key_of_a_set_has_the_algorithm_that_it_names() {
    let claims = json!({ "exp": NOW + 1 });
    for (kind, named) in [
        (Algorithm::ES256, Algorithm::ES256),
        (Algorithm::ES384, Algorithm::ES384),
        (Algorithm::EdDSA, Algorithm::EdDSA),
        (Algorithm::RS256, Algorithm::RS512),
        (Algorithm::RS256, Algorithm::PS384),
    ] {
        let mut key = jwk(kind);
        key["alg"] = json!(format!("{named:?}"));
        key["use"] = json!("sig");
        let mut keyring = Keyring::default();
        assert!(keyring.add_set(json!({ "keys": [key] }).to_string().as_bytes()).unwrap().is_empty());
        assert!(keyring.verify(&sign(named, None, &claims), NOW).is_ok(), "{named:?}");
    }
}

#[test]
fn a_key_of_a_set_that_is_left_out_is_named_with_the_reason() {
    let secret = URL_SAFE_NO_PAD.encode("secret");
    let with = |mut key: Value, members: &[(&str, &str)]| {
        members.iter().for_each(|(name, value)| key[name] = json!(value));
        key
    };
    let oct = json!({ "kty": "oct", "k": secret });
    for (key, reason) in [
        (with(oct.clone(), &[("k", "")]), "the key for HS256 cannot be read: the secret is empty"),
        (with(oct.clone(), &[("use", "enc")]), "the key is for encryption"),
        (with(oct.clone(), &[("alg", "RS256")]), "a key of this kind cannot be used for RS256"),
        (with(oct.clone(), &[("alg", "RSA-OAEP")]), "is no algorithm; there are HS256"),
        (with(jwk(Algorithm::RS256), &[("alg", "HS256")]), "a key of this kind cannot be used for HS256"),
        (with(jwk(Algorithm::RS256), &[("alg", "ES256")]), "a key of this kind cannot be used for ES256"),
        (with(jwk(Algorithm::ES256), &[("alg", "ES384")]), "a key of this kind cannot be used for ES384"),
        (with(jwk(Algorithm::ES384), &[("alg", "ES256")]), "a key of this kind cannot be used for ES256"),
        (with(jwk(Algorithm::EdDSA), &[("alg", "ES256")]), "a key of this kind cannot be used for ES256"),
        (with(jwk(Algorithm::EdDSA), &[("crv", "P-256")]), "a key of this kind cannot be used for EdDSA"),
    ] {
        let key = with(key, &[("kid", "left")]);
        let left_out = Keyring::default().add_set(json!({ "keys": [oct, key] }).to_string().as_bytes()).unwrap();
        let [LeftOut { index: 1, id: Some(id), error }] = &left_out[..] else { panic!("{key}: {left_out:?}") };
        assert!(id == "left" && error.to_string().contains(reason), "{key}: {error}");
    }
}

#[test]
fn keys_of_a_set_that_are_not_understood_are_left_out() {
    let secret = URL_SAFE_NO_PAD.encode("secret");
    let point = URL_SAFE_NO_PAD.encode([1; 32]);
    let good = json!({ "kty": "oct", "kid": "good", "alg": "HS256", "k": secret });
    for other in [
        json!({ "kty": "new", "kid": "x" }),
        json!({ "kty": "oct", "alg": "HS1024", "k": secret }),
        json!({ "kty": "oct", "alg": "HS256", "k": "" }),
        json!({ "kty": "oct", "alg": "HS256", "k": "!" }),
        json!({ "kty": "oct", "alg": "RS256", "k": secret }),
        json!({ "kty": "RSA", "alg": "HS256", "n": point, "e": "AQAB" }),
        json!({ "kty": "RSA", "alg": "ES256", "n": point, "e": "AQAB" }),
        json!({ "kty": "EC", "crv": "secp256k1", "x": point, "y": point }),
        json!({ "kty": "EC", "crv": "P-521", "x": point, "y": point }),
        json!({ "kty": "EC", "crv": "P-256", "alg": "ES384", "x": point, "y": point }),
        json!({ "kty": "OKP", "crv": "X25519", "x": point }),
        json!({ "kty": "OKP", "crv": "P-256", "x": point }),
        json!({ "kty": "oct", "kid": 5, "k": secret }),
        json!("no key"),
    ] {
        let mut keyring = Keyring::default();
        let left_out = keyring.add_set(json!({ "keys": [other, good] }).to_string().as_bytes()).unwrap();
        assert_eq!((keyring.len(), left_out.len(), left_out[0].index), (1, 1, 0), "{other}");
        let token = sign(Algorithm::HS256, Some("good"), &json!({ "exp": NOW + 1 }));
        assert!(keyring.verify(&token, NOW).is_ok(), "{other}");
        let alone = Keyring::default().add_set(json!({ "keys": [other] }).to_string().as_bytes()).unwrap_err();
        assert!(alone.to_string().starts_with("none of the 1 keys in the set can be used"), "{other}: {alone}");
    }
}

#[test]
fn keys_must_fit_their_algorithm() {
    let mut keyring = Keyring::default();
    for (algorithm, material) in [
        ("none", KeyMaterial::Secret(b"x".to_vec())),
        ("HS256", KeyMaterial::Secret(Vec::new())),
        ("HS256", KeyMaterial::Pem(key!("rsa.pub.pem").to_vec())),
        ("RS256", KeyMaterial::Secret(b"x".to_vec())),
        ("RS256", KeyMaterial::Pem(b"x".to_vec())),
        ("ES256", KeyMaterial::Pem(key!("rsa.pub.pem").to_vec())),
    ] {
        assert!(keyring.add(None, algorithm, &material).is_err(), "{algorithm}");
    }
    assert!(keyring.is_empty());
    assert_eq!(format!("{:?}", keyring_of(Algorithm::HS256, Rules::default())), "Keyring of 1");
}

proptest! {
    #[test]
    fn garbage_never_panics(token in "[A-Za-z0-9_.-]{0,80}", bytes in ".{0,40}") {
        let keyring = keyring_of(Algorithm::HS256, Rules::default());
        prop_assert!(keyring.verify(&token, NOW).is_err());
        prop_assert!(keyring.verify(&bytes, NOW).is_err());
    }
}
