//! Identities and permissions of clients: JSON Web Tokens (RFC 7519) and their claims.

mod grants;
mod keyring;
mod revoked;

pub use grants::{Grants, GrantsPool, Pattern};
pub use keyring::{Algorithm, Identity, KeyError, KeyMaterial, Keyring, LeftOut, Rules, TokenError};
pub use revoked::Revoked;

/// The longest `leeway` that can be configured: the time for which a token counts after its expiry, in seconds.
pub const LEEWAY_MAX_S: u64 = 3600;
