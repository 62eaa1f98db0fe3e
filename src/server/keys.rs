//! The keys for tokens: read at the start, on SIGHUP, and when one of their files has changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
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

/// When the files were last changed, and what they are: a file that was put in another's place may be older, and one
/// that is still being written as old.
pub(super) type Looks = Vec<Option<(SystemTime, u64, u64)>>;

/// How the files look. To be asked before they are read, so that no later change is missed.
pub(super) fn look(auth: &Auth) -> Looks {
    use std::os::unix::fs::MetadataExt;
    let of = |path: PathBuf| {
        let data = std::fs::metadata(path).ok()?;
        Some((data.modified().ok()?, data.ino(), data.len()))
    };
    files(auth).map(of).collect()
}

fn files(auth: &Auth) -> impl Iterator<Item = PathBuf> {
    let of_keys = auth.keys.iter().flat_map(|key| [key.secret_file.clone(), key.pem_file.clone()]);
    of_keys.chain([auth.jwks_file.clone()]).filter(|path| !path.as_os_str().is_empty())
}

/// Reads the keys again and gives them to the shards; returns whether they could be read. If not, those there are stay.
pub(super) fn reload(auth: &Auth, to_hub: &ToHub) -> bool {
    // Of two who read at a time, the one who has read the older ones must not be the last to give them away.
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
            error!(%error, "the keys for tokens cannot be read again; those from before stay in use");
            false
        }
    }
}

/// Reads the keys again whenever one of their files has changed since it looked as `seen`, for as long as the process
/// lives.
pub(super) fn watch(auth: Auth, mut seen: Looks, to_hub: ToHub) -> std::io::Result<()> {
    if seen.is_empty() {
        return Ok(());
    }
    std::thread::Builder::new().name("keys".into()).spawn(move || {
        loop {
            std::thread::sleep(LOOK_EVERY);
            let now = look(&auth);
            // A file that is being replaced may be gone for a moment.
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
