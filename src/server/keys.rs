//! The keys for tokens: read at the start, on SIGHUP, and when one of their files has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{error, info, warn};

use crate::config::{Auth, TokenKey};
use crate::link::{HubMessage, ToHub};
use crate::logic::auth::{KeyError, KeyMaterial, Keyring, LeftOut, Rules};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A secret that is shorter can be guessed by trying (RFC 7518 §3.2).
const SECRET_BYTES_SAFE: usize = 32;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A key cannot be used.
    #[error("{place}: {source}")]
    Key {
        /// Where it stands.
        place: String,
        /// What is wrong.
        source: KeyError,
    },
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::Read { path: path.display().to_string(), source })
}

fn material(key: &TokenKey) -> Result<KeyMaterial, LoadError> {
    Ok(if !key.secret.is_empty() {
        KeyMaterial::Secret(key.secret.clone().into_bytes())
    } else if !key.secret_file.as_os_str().is_empty() {
        // Editors and `echo` end files with a newline that nobody means as part of the secret.
        KeyMaterial::Secret(read(&key.secret_file)?.trim_ascii_end().to_vec())
    } else if !key.pem.is_empty() {
        KeyMaterial::Pem(key.pem.clone().into_bytes())
    } else {
        KeyMaterial::Pem(read(&key.pem_file)?)
    })
}

/// Reads all keys that are configured; `None` if tokens are not verified.
pub(super) fn load(auth: &Auth) -> Result<Option<Arc<Keyring>>, LoadError> {
    if !auth.has_keys() {
        return Ok(None);
    }
    let rules =
        Rules { issuers: auth.issuer.clone(), audiences: auth.audience.clone(), leeway_s: auth.leeway.as_secs() };
    let mut keyring = Keyring::new(rules);
    for (index, key) in auth.keys.iter().enumerate() {
        let material = material(key)?;
        if let KeyMaterial::Secret(secret) = &material
            && secret.len() < SECRET_BYTES_SAFE
        {
            warn!(key = index, bytes = secret.len(), "a secret of less than 32 bytes can be guessed");
        }
        let id = Some(key.kid.clone()).filter(|kid| !kid.is_empty());
        let failed = |source| LoadError::Key { place: format!("[auth] keys[{index}]"), source };
        keyring.add(id, &key.alg, &material).map_err(failed)?;
    }
    if !auth.jwks_file.as_os_str().is_empty() {
        let failed = |source| LoadError::Key { place: auth.jwks_file.display().to_string(), source };
        for LeftOut { index, id, error } in keyring.add_set(&read(&auth.jwks_file)?).map_err(failed)? {
            // An issuer's keys for other purposes are nothing to be warned of.
            if !matches!(error, KeyError::ForEncryption) {
                let kid = id.unwrap_or_default();
                warn!(file = %auth.jwks_file.display(), key = index, kid, %error, "a key cannot be used and is left out");
            }
        }
    }
    Ok(Some(Arc::new(keyring)))
}

/// When the files were last changed, and what they are: a file that was put in another's place may be older.
fn look(files: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    use std::os::unix::fs::MetadataExt;
    let of = |path: &PathBuf| std::fs::metadata(path).ok().and_then(|data| Some((data.modified().ok()?, data.ino())));
    files.iter().map(of).collect()
}

fn files(auth: &Auth) -> Vec<PathBuf> {
    let of_keys = auth.keys.iter().flat_map(|key| [key.secret_file.clone(), key.pem_file.clone()]);
    of_keys.chain([auth.jwks_file.clone()]).filter(|path| !path.as_os_str().is_empty()).collect()
}

/// Reads the keys again and gives them to the shards; returns whether they could be read. If not, those there are stay.
pub(super) fn reload(auth: &Auth, to_hub: &ToHub) -> bool {
    match load(auth) {
        Ok(Some(keyring)) => {
            info!(keys = keyring.len(), "the keys for tokens were read again");
            to_hub.send(HubMessage::Keys(keyring));
            to_hub.ring();
            true
        }
        Ok(None) => true,
        Err(error) => {
            error!(%error, "the keys for tokens cannot be read again; those from before stay in use");
            false
        }
    }
}

/// Reads the keys again whenever one of their files has changed, for as long as the process lives.
pub(super) fn watch(auth: Auth, to_hub: ToHub) -> std::io::Result<()> {
    let files = files(&auth);
    if files.is_empty() {
        return Ok(());
    }
    let mut seen = look(&files);
    std::thread::Builder::new().name("keys".into()).spawn(move || {
        loop {
            std::thread::sleep(LOOK_EVERY);
            let now = look(&files);
            // A file that is being replaced may be gone for a moment.
            if now != seen && now.iter().all(Option::is_some) {
                seen = now;
                reload(&auth, &to_hub);
            }
        }
    })?;
    Ok(())
}
