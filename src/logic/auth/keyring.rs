//! The keys by which tokens are verified, and the verification: the signature first, then the claims.
//!
//! A key has one algorithm, which is never taken from the token (RFC 8725 §3.1). The caller passes the time.

use arcstr::ArcStr;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;

use super::Grants;

pub use jsonwebtoken::Algorithm;

/// The longest token that is verified, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// The longest user name or token id, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The cause for which a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The server does not know an algorithm of that name.
    #[error(
        "{0:?} is no algorithm; there are HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA"
    )]
    Algorithm(String),
    /// The key itself is malformed, or of another kind than its algorithm needs.
    #[error("the key for {algorithm} cannot be read: {problem}")]
    Malformed {
        /// The algorithm's name.
        algorithm: String,
        /// The fault of the key.
        problem: String,
    },
    /// The text is no JSON Web Key Set.
    #[error("this is no JSON Web Key Set: {0}")]
    Set(String),
    /// The key of a set is for encryption, not for signatures.
    #[error("the key is for encryption")]
    ForEncryption,
    /// The key of a set is of another kind, or on another curve, than its algorithm needs.
    #[error("a key of this kind cannot be used for {0}")]
    Unfit(String),
    /// The set has keys, and none of them can be used.
    #[error("none of the {count} keys in the set can be used; the first one: {first}")]
    NoneUsable {
        /// The number of keys in the set.
        count: usize,
        /// The fault of the set's first key.
        first: Box<KeyError>,
    },
}

/// A key of a set that is left out.
#[derive(Debug)]
pub struct LeftOut {
    /// The key's place in the set, from 0.
    pub index: usize,
    /// The key's id (`kid`), if it has one.
    pub id: Option<String>,
    /// The fault of the key.
    pub error: KeyError,
}

/// The material of a configured key.
#[derive(Debug)]
pub enum KeyMaterial {
    /// A shared secret, for HMAC.
    Secret(Vec<u8>),
    /// A public key in PEM.
    Pem(Vec<u8>),
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The rules for a token's claims.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The accepted issuers (`iss`); empty for any issuer.
    pub issuers: Vec<String>,
    /// The accepted audiences (`aud`), of which a token must name one; `any` accepts every audience. If empty, a token
    /// must name none (RFC 7519 §4.1.3).
    pub audiences: Vec<String>,
    /// The difference between clocks that is allowed for, in seconds.
    pub leeway_s: u64,
}

/// All keys, and the rules for the claims.
#[derive(Default)]
pub struct Keyring {
    keys: Vec<Key>,
    rules: Rules,
}

// The keys are left out, because this text may be logged.
impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring of {}", self.keys.len())
    }
}

/// The identity that a verified token gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The token's user (`sub`).
    pub user: Option<ArcStr>,
    /// The token's id (`jti`).
    pub token: Option<ArcStr>,
    /// The time at which the identity expires, in seconds since 1970, with the leeway.
    pub expires_s: u64,
    /// The channels that the token names.
    pub grants: Grants,
}

/// The cause for which a token is refused. No error repeats a part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is no JSON Web Token.
    #[error("this is no JSON Web Token")]
    Malformed,
    /// The token needs an extension (`crit`, RFC 7515 §4.1.11), of which the server knows none.
    #[error("the token demands an extension that this server does not know")]
    Critical,
    /// No key has the token's `kid`, or its algorithm.
    #[error("no key of this server goes with the token")]
    NoKey,
    /// The signature is not by one of the keys.
    #[error("the token's signature is not valid")]
    Signature,
    /// A claim has a wrong type.
    #[error(
        "the token's claims cannot be read; sub, iss and jti are text, exp and nbf numbers, aud, channels and publish texts or lists of them"
    )]
    Claims,
    /// The claim `exp` is missing.
    #[error("the token has no exp; tokens must expire")]
    NoExpiry,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// The token's time (`nbf`) has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// The token's issuer is not accepted.
    #[error("the token is of an issuer that is not accepted here")]
    Issuer,
    /// The token's audience is not accepted.
    #[error("the token is not for this audience")]
    Audience,
    /// The claim `sub` or `jti` is too long.
    #[error("the token's sub or jti is longer than 255 bytes")]
    TooLong,
    /// The token was revoked.
    #[error("the token has been revoked")]
    Revoked,
}

/// A claim that may be one text or a list.
#[derive(Default, Deserialize)]
#[serde(from = "OneOrMany")]
struct List(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for List {
    fn from(value: OneOrMany) -> List {
        match value {
            OneOrMany::One(text) => List(vec![text]),
            OneOrMany::Many(list) => List(list),
        }
    }
}

/// A JSON Web Key Set (RFC 7517 §5), whose keys are parsed one by one.
#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    #[serde(default)]
    aud: List,
    jti: Option<String>,
    #[serde(default)]
    channels: List,
    #[serde(default)]
    publish: List,
}

impl Keyring {
    /// A keyring without keys, by which every token is refused.
    pub fn new(rules: Rules) -> Keyring {
        Keyring { keys: Vec::new(), rules }
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Adds a key. A key with an id is only for tokens with that `kid`.
    ///
    /// # Errors
    /// If the algorithm is not known, or the key does not fit the algorithm.
    pub fn add(&mut self, id: Option<String>, algorithm: &str, material: &KeyMaterial) -> Result<(), KeyError> {
        let named: Algorithm = algorithm.parse().map_err(|_| KeyError::Algorithm(algorithm.to_owned()))?;
        let malformed = |problem: String| KeyError::Malformed { algorithm: algorithm.to_owned(), problem };
        let is_hmac = matches!(named, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
        let key = match (material, named) {
            (KeyMaterial::Secret(secret), _) if is_hmac => {
                if secret.is_empty() {
                    return Err(malformed("the secret is empty".into()));
                }
                DecodingKey::from_secret(secret)
            }
            (KeyMaterial::Pem(pem), Algorithm::ES256 | Algorithm::ES384) => {
                DecodingKey::from_ec_pem(pem).map_err(|error| malformed(error.to_string()))?
            }
            (KeyMaterial::Pem(pem), Algorithm::EdDSA) => {
                DecodingKey::from_ed_pem(pem).map_err(|error| malformed(error.to_string()))?
            }
            (KeyMaterial::Pem(pem), _) if !is_hmac => {
                DecodingKey::from_rsa_pem(pem).map_err(|error| malformed(error.to_string()))?
            }
            (KeyMaterial::Secret(_), _) => {
                return Err(malformed("the algorithm needs a public key, not a secret".into()));
            }
            (KeyMaterial::Pem(_), _) => return Err(malformed("the algorithm needs a secret, not a public key".into())),
        };
        self.keys.push(Key { id, algorithm: named, key });
        Ok(())
    }

    /// Adds the keys of a JSON Web Key Set that are for signatures, and returns the keys that it leaves out. Keys of an
    /// unknown kind are left out (RFC 7517 §5), so that issuers can add new kinds.
    ///
    /// # Errors
    /// If the text is no set, or if none of its keys can be used. No key is added then.
    pub fn add_set(&mut self, json: &[u8]) -> Result<Vec<LeftOut>, KeyError> {
        let set: Set = serde_json::from_slice(json).map_err(|error| KeyError::Set(error.to_string()))?;
        let (count, before) = (set.keys.len(), self.keys.len());
        let mut left_out = Vec::new();
        for (index, key) in set.keys.into_iter().enumerate() {
            let id = key.get("kid").and_then(|id| id.as_str()).map(str::to_owned);
            match key_of_set(key) {
                Ok(key) => self.keys.push(key),
                Err(error) => left_out.push(LeftOut { index, id, error }),
            }
        }
        if self.keys.len() == before && !left_out.is_empty() {
            let first = Box::new(left_out.swap_remove(0).error);
            return Err(KeyError::NoneUsable { count, first });
        }
        Ok(left_out)
    }

    /// Verifies a token at `now_s`, in seconds since 1970.
    ///
    /// # Errors
    /// The cause for which the token is refused.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<Identity, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let header = token.split('.').next().unwrap_or_default();
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Malformed)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let algorithm: Algorithm = header.alg.parse().map_err(|_| TokenError::NoKey)?;
        let claims = self.claims(token, algorithm, header.kid.as_deref())?;
        self.judge(claims, now_s)
    }

    /// The token's claims, if one of the keys for the token has signed it.
    fn claims(&self, token: &str, algorithm: Algorithm, id: Option<&str>) -> Result<Claims, TokenError> {
        // A token that names a key must be signed by it. A token without `kid` may be signed by any key of its
        // algorithm.
        let goes_with =
            |key: &&Key| key.algorithm == algorithm && (key.id.is_none() || id.is_none() || key.id.as_deref() == id);
        let mut error = TokenError::NoKey;
        for key in self.keys.iter().filter(goes_with) {
            let mut validation = Validation::new(key.algorithm);
            // The caller checks the claims, by its own clock.
            validation.required_spec_claims.clear();
            validation.validate_exp = false;
            validation.validate_nbf = false;
            validation.validate_aud = false;
            match jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
                Ok(token) => return Ok(token.claims),
                Err(failed) => {
                    error = match failed.kind() {
                        jsonwebtoken::errors::ErrorKind::Json(_) => return Err(TokenError::Claims),
                        jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::Signature,
                        _ => TokenError::Malformed,
                    }
                }
            }
        }
        Err(error)
    }

    fn judge(&self, claims: Claims, now_s: u64) -> Result<Identity, TokenError> {
        let Rules { issuers, audiences, leeway_s } = &self.rules;
        let expires_s = seconds(claims.exp.ok_or(TokenError::NoExpiry)?)?.saturating_add(*leeway_s);
        if expires_s <= now_s {
            return Err(TokenError::Expired);
        }
        if let Some(nbf) = claims.nbf
            && seconds(nbf)? > now_s.saturating_add(*leeway_s)
        {
            return Err(TokenError::NotYet);
        }
        if !issuers.is_empty() && !claims.iss.is_some_and(|issuer| issuers.contains(&issuer)) {
            return Err(TokenError::Issuer);
        }
        let is_accepted = match audiences.as_slice() {
            [] => claims.aud.0.is_empty(),
            [any] if any == "any" => true,
            audiences => claims.aud.0.iter().any(|audience| audiences.contains(audience)),
        };
        if !is_accepted {
            return Err(TokenError::Audience);
        }
        let user = claims.sub.filter(|user| !user.is_empty());
        let is_long = |name: &Option<String>| name.as_ref().is_some_and(|name| name.len() > NAME_BYTES_MAX);
        if is_long(&user) || is_long(&claims.jti) {
            return Err(TokenError::TooLong);
        }
        let grants = Grants::new(&claims.channels.0, &claims.publish.0);
        Ok(Identity { user: user.map(Into::into), token: claims.jti.map(Into::into), expires_s, grants })
    }
}

/// Reads a NumericDate (RFC 7519 §2), which may have a fraction.
fn seconds(date: f64) -> Result<u64, TokenError> {
    if (0.0..=1e15).contains(&date) { Ok(date as u64) } else { Err(TokenError::Claims) }
}

/// Reads a key of a set, which must be for signatures and of a known kind.
fn key_of_set(key: serde_json::Value) -> Result<Key, KeyError> {
    let jwk: Jwk = serde_json::from_value(key)
        .map_err(|error| KeyError::Malformed { algorithm: "tokens".into(), problem: error.to_string() })?;
    if jwk.common.public_key_use == Some(PublicKeyUse::Encryption) {
        return Err(KeyError::ForEncryption);
    }
    let algorithm = algorithm_of(&jwk)?;
    let name = format!("{algorithm:?}");
    let malformed = |problem: String| KeyError::Malformed { algorithm: name.clone(), problem };
    let key = DecodingKey::from_jwk(&jwk).map_err(|error| malformed(error.to_string()))?;
    if key.family() != algorithm.family() || !is_on_its_curve(&jwk, algorithm) {
        return Err(KeyError::Unfit(name));
    }
    if matches!(&jwk.algorithm, AlgorithmParameters::OctetKey(secret) if secret.value.is_empty()) {
        return Err(malformed("the secret is empty".into()));
    }
    Ok(Key { id: jwk.common.key_id, algorithm, key })
}

/// Whether a key is on the curve of its algorithm, if the algorithm has one (RFC 7518 §3.4, RFC 8037 §3.1).
fn is_on_its_curve(jwk: &Jwk, algorithm: Algorithm) -> bool {
    match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(key) => matches!(
            (&key.curve, algorithm),
            (EllipticCurve::P256, Algorithm::ES256) | (EllipticCurve::P384, Algorithm::ES384)
        ),
        AlgorithmParameters::OctetKeyPair(key) => key.curve == EllipticCurve::Ed25519,
        _ => true,
    }
}

/// The algorithm that a JWK names, else the usual one of its kind. The token has no influence on it.
fn algorithm_of(jwk: &Jwk) -> Result<Algorithm, KeyError> {
    if let Some(algorithm) = jwk.common.key_algorithm {
        let name = algorithm.to_string();
        return name.parse().map_err(|_| KeyError::Algorithm(name));
    }
    let usual = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P384 => KeyAlgorithm::ES384,
        AlgorithmParameters::EllipticCurve(_) => KeyAlgorithm::ES256,
        AlgorithmParameters::RSA(_) => KeyAlgorithm::RS256,
        AlgorithmParameters::OctetKey(_) => KeyAlgorithm::HS256,
        _ => KeyAlgorithm::EdDSA,
    };
    let name = usual.to_string();
    name.parse().map_err(|_| KeyError::Algorithm(name))
}

#[cfg(test)]
mod tests;
