//! The TLS certificates: read at the start, on SIGHUP, and when one of their files has changed. Connections that are open
//! keep what they have agreed on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use ::aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use tracing::{error, info, warn};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::{Certificate, ClientAuth, Config, Tls, TlsVersion};
use crate::figures::ServerFigures;
use crate::logic::tls::{TlsSettings, prepare};

use super::demo;
use super::keys::{LOOK_EVERY, Looks, look_at};
use super::tickets::{Bound, Tickets};

/// The time before a certificate's end from which on it is warned of.
const WARN_DAYS: u64 = 21;
const DAY_S: u64 = 24 * 3600;

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The path of the file.
        path: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A file holds no certificate.
    #[error("{0} holds no certificate in PEM")]
    NoCertificate(String),
    /// A file holds no private key.
    #[error("{0} holds no private key in PEM")]
    NoKey(String),
    /// A certificate is none.
    #[error("the certificate in {0} cannot be read: it is damaged, or no X.509 certificate")]
    Malformed(String),
    /// A key is of no kind that is known.
    #[error("the private key in {path} cannot be used: {reason}")]
    Key {
        /// The path of the file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key belongs to another certificate.
    #[error("the private key in {key} is not that of the certificate in {chain}")]
    Mismatch {
        /// The file of the certificate.
        chain: String,
        /// The file of the key.
        key: String,
    },
    /// A certificate has expired.
    #[error("the certificate in {path} has expired on {date}")]
    Expired {
        /// The path of the file.
        path: String,
        /// The date at which it has expired.
        date: String,
    },
    /// A certificate is not valid yet.
    #[error("the certificate in {path} is valid only from {date} on; is this host's clock right?")]
    NotYet {
        /// The path of the file.
        path: String,
        /// The date at which it becomes valid.
        date: String,
    },
    /// The authorities of clients' certificates cannot be used.
    #[error("the authorities in {path} cannot be used: {reason}")]
    Authorities {
        /// The path of the file.
        path: String,
        /// What is wrong with them.
        reason: String,
    },
    /// rustls refuses the configuration.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
    /// The demo's certificate cannot be made.
    #[error("the demo's certificate cannot be made: {0}")]
    Demo(String),
}

/// A certificate with its key, its names and its end.
struct Loaded {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    /// The time at which it expires, in seconds since 1970.
    expires_s: u64,
}

/// The time at which a certificate expires, and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The file.
    pub path: PathBuf,
    /// The time, in seconds since 1970.
    pub at_s: u64,
}

impl Expiry {
    /// A sentence if the certificate expires within three weeks.
    pub fn warning(&self) -> Option<String> {
        let left = self.at_s.saturating_sub(now_s());
        (left < WARN_DAYS * DAY_S)
            .then(|| format!("the certificate in {} expires in {} days", self.path.display(), left / DAY_S))
    }
}

/// The present time, in seconds since 1970.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Reads all certificates as a server would, and tells when they expire.
///
/// # Errors
/// If one of them cannot be used.
pub fn check(tls: &Tls) -> Result<Vec<Expiry>, CertificateError> {
    let provider = aws_lc_rs::default_provider();
    let check = |certificate: &Certificate| {
        let loaded = load_one(certificate, &provider, now_s())?;
        Ok(Expiry { path: certificate.chain.clone(), at_s: loaded.expires_s })
    };
    authorities(tls)?;
    tls.all().iter().map(check).collect()
}

/// The verification of clients' certificates.
#[derive(Default)]
struct Authorities {
    /// `None` if clients are not asked for a certificate.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// A digest of what is verified by.
    bound: Bound,
}

/// Reads the authorities of clients' certificates.
fn authorities(tls: &Tls) -> Result<Authorities, CertificateError> {
    if tls.client_auth == ClientAuth::Off {
        return Ok(Authorities::default());
    }
    let path = tls.client_ca.display().to_string();
    let bytes = read(&tls.client_ca)?;
    let mut roots = RootCertStore::empty();
    let unusable = |reason: String| CertificateError::Authorities { path: path.clone(), reason };
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|_| CertificateError::Malformed(path.clone()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(CertificateError::NoCertificate(path));
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if tls.client_auth == ClientAuth::Optional { builder.allow_unauthenticated() } else { builder };
    let verifier = builder.build().map_err(|error| unusable(error.to_string()))?;
    let mut bound = Bound::default();
    bound.copy_from_slice(digest(&SHA256, &bytes).as_ref());
    Ok(Authorities { verifier: Some(verifier), bound })
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::Read { path: path.display().to_string(), source })
}

/// Reads a certificate and its key.
fn load_one(files: &Certificate, provider: &CryptoProvider, now_s: u64) -> Result<Loaded, CertificateError> {
    let (chain, key) = (files.chain.display().to_string(), files.key.display().to_string());
    let certificates: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(&read(&files.chain)?).collect();
    let certificates = certificates.map_err(|_| CertificateError::Malformed(chain.clone()))?;
    let first = certificates.first().ok_or_else(|| CertificateError::NoCertificate(chain.clone()))?;
    let (names, expires_s) = look_into(first, &chain, now_s)?;
    let private =
        PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|_| CertificateError::NoKey(key.clone()))?;
    let certified = CertifiedKey::from_der(certificates, private, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => CertificateError::Mismatch { chain, key },
        error => CertificateError::Key { path: key, reason: error.to_string() },
    })?;
    Ok(Loaded { key: Arc::new(certified), names, expires_s })
}

/// The names of a certificate, and the time at which it expires.
fn look_into(der: &[u8], path: &str, now_s: u64) -> Result<(Vec<String>, u64), CertificateError> {
    let malformed = || CertificateError::Malformed(path.to_owned());
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| malformed())?;
    let validity = certificate.validity();
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    let expires_s = seconds(validity.not_after.timestamp());
    if expires_s <= now_s {
        return Err(CertificateError::Expired { path: path.to_owned(), date: validity.not_after.to_string() });
    }
    if seconds(validity.not_before.timestamp()) > now_s {
        return Err(CertificateError::NotYet { path: path.to_owned(), date: validity.not_before.to_string() });
    }
    let names = certificate.subject_alternative_name().map_err(|_| malformed())?;
    let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok((names.collect(), expires_s))
}

/// The certificates by the names that clients ask for.
#[derive(Debug)]
struct ByName {
    /// By whole names, and by what follows the `*` of a wildcard.
    names: HashMap<String, Arc<CertifiedKey>>,
    /// The one for clients that ask for no known name; none if these are refused.
    default: Option<Arc<CertifiedKey>>,
}

impl ByName {
    fn new(all: &[Loaded], is_strict: bool) -> ByName {
        let mut names = HashMap::new();
        for Loaded { key, names: of_one, .. } in all {
            for name in of_one {
                let name = name.strip_prefix('*').unwrap_or(name);
                // The certificate that stands first in the configuration has the name.
                names.entry(name.to_owned()).or_insert_with(|| key.clone());
            }
        }
        let default = all.first().filter(|_| !is_strict).map(|loaded| loaded.key.clone());
        ByName { names, default }
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        // A wildcard stands for one label.
        let parent = || name.find('.').map(|dot| &name[dot..]);
        self.names.get(&name).or_else(|| self.names.get(parent()?))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().and_then(|name| self.find(name)).or(self.default.as_ref()).cloned()
    }
}

/// The certificates in use, and what is needed to read them again.
pub(super) struct Certificates {
    tls: Tls,
    current: Arc<RwLock<TlsSettings>>,
    tickets: Option<Arc<Tickets>>,
    /// The state of the files before they were read.
    seen: Looks,
    figures: Arc<ServerFigures>,
    /// Two reloads at a time (SIGHUP and a changed file) could keep the older certificates.
    reloading: Mutex<()>,
}

impl Certificates {
    /// Reads the certificates; `None` if none are configured.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub(super) fn load(
        config: &Config,
        figures: &Arc<ServerFigures>,
    ) -> Result<Option<Arc<Certificates>>, CertificateError> {
        let tls = config.tls.clone();
        let is_made_up = tls.all().is_empty();
        if is_made_up && config.server.listen_tls.is_empty() {
            return Ok(None);
        }
        // Before the files are read, so that no later change is missed.
        let seen = look_at(files(&tls));
        let authorities = authorities(&tls)?;
        let no_keys = |_| rustls::Error::FailedToGetRandomBytes;
        let tickets = tls.tickets.then(|| Tickets::new(authorities.bound, now_s())).transpose().map_err(no_keys)?;
        let tickets = tickets.map(Arc::new);
        let all = if is_made_up { vec![made_up()?] } else { read_all(&tls)? };
        let (settings, expires_s) = set_up(&tls, &all, authorities.verifier, tickets.as_ref())?;
        figures.tls_certificate_expiry_seconds.store(expires_s, Ordering::Relaxed);
        let current = Arc::new(RwLock::new(settings));
        let reloading = Mutex::new(());
        Ok(Some(Arc::new(Certificates { tls, current, tickets, seen, figures: figures.clone(), reloading })))
    }

    /// Has the keys of tickets outlive the process in a state file.
    pub(super) fn keep_tickets(&self, path: &Path) {
        let Some(tickets) = &self.tickets else { return };
        if let Err(error) = tickets.keep_in(path, now_s()) {
            let path = path.display();
            warn!(%path, %error, "the keys of TLS tickets cannot be kept; clients that come back after a restart will not resume");
        }
    }

    /// What handshakes are made with, now and after each reload.
    pub(super) fn current(&self) -> Arc<RwLock<TlsSettings>> {
        self.current.clone()
    }

    /// Reads the certificates again. Returns whether they can be used; if not, the previous ones stay in use.
    pub(super) fn reload(&self) -> bool {
        if self.tls.all().is_empty() {
            return true;
        }
        let _alone = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read_again() {
            Ok((settings, expires_s)) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = settings;
                self.figures.tls_certificate_expiry_seconds.store(expires_s, Ordering::Relaxed);
                info!(certificates = self.tls.all().len(), "the TLS certificates were read again");
                true
            }
            Err(error) => {
                self.figures.tls_reloads_failed.fetch_add(1, Ordering::Relaxed);
                error!(%error, "the TLS certificates cannot be read again; the previous ones stay in use");
                false
            }
        }
    }

    fn read_again(&self) -> Result<(TlsSettings, u64), CertificateError> {
        let authorities = authorities(&self.tls)?;
        let read = set_up(&self.tls, &read_all(&self.tls)?, authorities.verifier, self.tickets.as_ref())?;
        if let Some(tickets) = &self.tickets {
            tickets.bind(authorities.bound, now_s());
        }
        Ok(read)
    }

    /// Starts a thread that reads the certificates again whenever one of their files has changed, and makes new keys for
    /// tickets when these are due, for as long as the process lives.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn watch(self: &Arc<Certificates>) -> std::io::Result<()> {
        let own = self.clone();
        let mut seen = own.seen.clone();
        std::thread::Builder::new().name("certificates".into()).spawn(move || {
            loop {
                std::thread::sleep(LOOK_EVERY);
                if let Some(tickets) = &own.tickets {
                    tickets.rotate(now_s());
                }
                let now = look_at(files(&own.tls));
                // A file that is being replaced may be missing for a moment.
                if now != seen && now.iter().all(Option::is_some) {
                    seen = now;
                    own.reload();
                }
            }
        })?;
        Ok(())
    }
}

fn files(tls: &Tls) -> impl Iterator<Item = PathBuf> {
    let authorities = (tls.client_auth != ClientAuth::Off).then(|| tls.client_ca.clone());
    tls.all().into_iter().flat_map(|certificate| [certificate.chain, certificate.key]).chain(authorities)
}

/// A certificate for the demo, made on the spot.
fn made_up() -> Result<Loaded, CertificateError> {
    let (der, private) = demo::certificate().map_err(CertificateError::Demo)?;
    let (names, expires_s) = look_into(&der, "the demo's certificate", now_s())?;
    let key = CertifiedKey::from_der(vec![der], private, &aws_lc_rs::default_provider())?;
    Ok(Loaded { key: Arc::new(key), names, expires_s })
}

/// Reads all certificates.
fn read_all(tls: &Tls) -> Result<Vec<Loaded>, CertificateError> {
    let provider = aws_lc_rs::default_provider();
    let load = |files: &Certificate| {
        let loaded = load_one(files, &provider, now_s())?;
        if let Some(warning) = (Expiry { path: files.chain.clone(), at_s: loaded.expires_s }).warning() {
            warn!("{warning}");
        }
        Ok(loaded)
    };
    tls.all().iter().map(load).collect()
}

/// What handshakes with these certificates are made with, and the time at which the first one expires.
fn set_up(
    tls: &Tls,
    all: &[Loaded],
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    tickets: Option<&Arc<Tickets>>,
) -> Result<(TlsSettings, u64), CertificateError> {
    let versions = match tls.min_version {
        TlsVersion::V12 => &[&TLS13, &TLS12][..],
        TlsVersion::V13 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let resolver = Arc::new(ByName::new(all, tls.strict_sni));
    let builder = builder.with_protocol_versions(versions)?;
    let mut config = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(resolver);
    let versions_of_http: &[&[u8]] = if tls.http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
    config.alpn_protocols = versions_of_http.iter().map(|name| name.to_vec()).collect();
    // Tickets are all that is kept of a session, and the client keeps them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = usize::from(tickets.is_some());
    if let Some(tickets) = tickets {
        config.ticketer = tickets.clone();
    }
    let expires_s = all.iter().map(|loaded| loaded.expires_s).min().unwrap_or(0);
    Ok((prepare(config), expires_s))
}
