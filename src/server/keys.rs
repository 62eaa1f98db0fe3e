//! The keys that tokens are verified with: read at the start, on SIGHUP, and when one of their files has changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::{error, info, warn};

use crate::config::{Auth, TokenKey};
use crate::link::{HubMessage, ToHub};
use crate::logic::auth::{KeyError, KeyMaterial, Keyring, LeftOut, Rules};

/// The interval at which the files are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A shorter secret can be guessed by trying (RFC 7518 §3.2).
const SECRET_BYTES_SAFE: usize = 32;

/// Why the keys cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The path of the file.
        path: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A key cannot be used.
    #[error("{place}: {source}")]
    Key {
        /// The place of the key: an entry of the configuration, or the file.
        place: String,
        /// Why it cannot be used.
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
        // Editors and `echo` end files with a newline, which is not part of the secret.
        KeyMaterial::Secret(read(&key.secret_file)?.trim_ascii_end().to_vec())
    } else if !key.pem.is_empty() {
        KeyMaterial::Pem(key.pem.clone().into_bytes())
    } else {
        KeyMaterial::Pem(read(&key.pem_file)?)
    })
}

/// Reads all keys that are configured; `None` if tokens are not verified.
///
/// # Errors
/// If a file cannot be read, or a key cannot be used.
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
            // Issuers publish keys for encryption in the same set: those are left out without a warning.
            if !matches!(error, KeyError::ForEncryption) {
                let kid = id.unwrap_or_default();
                warn!(file = %auth.jwks_file.display(), key = index, kid, %error, "a key cannot be used and is left out");
            }
        }
    }
    Ok(Some(Arc::new(keyring)))
}

/// The state of each file: time of its last change, inode, and length; `None` for a file that is not there. The time alone
/// does not tell all changes: a file that is moved into the place of another may be older than it, and writing to a file
/// twice within the clock's grain leaves its time as it was.
pub(super) type Looks = Vec<Option<(SystemTime, u64, u64)>>;

/// The state of the key files. Call this before the files are read, so that no later change is missed.
pub(super) fn look(auth: &Auth) -> Looks {
    look_at(files(auth))
}

/// The state of files.
pub(super) fn look_at(files: impl Iterator<Item = PathBuf>) -> Looks {
    use std::os::unix::fs::MetadataExt;
    let of = |path: PathBuf| {
        let data = std::fs::metadata(path).ok()?;
        Some((data.modified().ok()?, data.ino(), data.len()))
    };
    files.map(of).collect()
}

fn files(auth: &Auth) -> impl Iterator<Item = PathBuf> {
    let of_keys = auth.keys.iter().flat_map(|key| [key.secret_file.clone(), key.pem_file.clone()]);
    of_keys.chain([auth.jwks_file.clone()]).filter(|path| !path.as_os_str().is_empty())
}

/// Reads the keys again and sends them to the shards. Returns whether the keys could be read; if not, the shards keep those
/// that they have.
pub(super) fn reload(auth: &Auth, to_hub: &ToHub) -> bool {
    // Two reloads at a time (SIGHUP and a changed file) could send the older keys last.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    match load(auth) {
        Ok(Some(keyring)) => {
            info!(keys = keyring.len(), "the keys for tokens were read again");
            to_hub.send(HubMessage::Keys(keyring));
            to_hub.ring();
            true
        }
        Ok(None) => true,
        Err(error) => {
            error!(%error, "the keys for tokens cannot be read again; the previous keys stay in use");
            false
        }
    }
}

/// Starts a thread that reads the keys again whenever one of their files differs from `seen`, for as long as the process
/// lives.
///
/// # Errors
/// If the thread cannot be started.
pub(super) fn watch(auth: Auth, mut seen: Looks, to_hub: ToHub) -> std::io::Result<()> {
    if seen.is_empty() {
        return Ok(());
    }
    std::thread::Builder::new().name("keys".into()).spawn(move || {
        loop {
            std::thread::sleep(LOOK_EVERY);
            let now = look(&auth);
            // A file that is being replaced may be missing for a moment.
            if now != seen && now.iter().all(Option::is_some) {
                seen = now;
                reload(&auth, &to_hub);
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_between_reading_and_watching_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "one").unwrap();
        let key = TokenKey { alg: "HS256".into(), secret_file: file.clone(), ..TokenKey::default() };
        let auth = Auth { keys: vec![key], ..Auth::default() };
        let seen = look(&auth);
        load(&auth).unwrap();
        std::fs::write(&file, "another").unwrap();
        let (to_hub, inbox) = crate::link::to_hub().unwrap();
        watch(auth, seen, to_hub).unwrap();
        let deadline = std::time::Instant::now() + LOOK_EVERY * 20;
        while !matches!(inbox.next(), Some(HubMessage::Keys(_))) {
            assert!(std::time::Instant::now() < deadline, "nothing was read again");
            std::thread::sleep(LOOK_EVERY / 50);
        }
    }
}
