//! Who a client is and what it may do: JSON Web Tokens (RFC 7519) and their claims.

mod grants;
mod keyring;
mod revoked;

pub use grants::{Grants, GrantsPool, Pattern};
pub use keyring::{Algorithm, Identity, KeyError, KeyMaterial, Keyring, LeftOut, Rules, TokenError};
pub use revoked::Revoked;
