//! Who a client is and what it may do: JSON Web Tokens (RFC 7519) and their claims.

mod grants;
mod keyring;
mod revoked;

pub use grants::{Grants, GrantsPool, Pattern};
pub use keyring::{Algorithm, Identity, KeyError, KeyMaterial, Keyring, LeftOut, Rules, TokenError};
pub use revoked::Revoked;

/// The longest time after its expiry for which a token may be made to count, in seconds.
pub const LEEWAY_MAX_S: u64 = 3600;
