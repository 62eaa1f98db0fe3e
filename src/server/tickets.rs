//! The keys of TLS session tickets (RFC 5077, RFC 8446 §4.6.1): a ticket is a session's secrets, sealed for the server itself and
//! kept by the client.
//!
//! After a restart all clients come back at once, so the keys outlive the process, in a state file that only the server's user
//! may read. A key seals tickets for half a day and opens them for another half: a stolen file opens no older sessions. Tickets
//! name the client's certificate, so the keys belong to one set of authorities, and go with it.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use tracing::warn;
use zeroize::Zeroizing;

/// The time for which a key seals tickets, in seconds.
const SEALS_S: u64 = 12 * 3600;
/// The time for which a key opens tickets, in seconds.
const OPENS_S: u64 = 2 * SEALS_S;
/// A key from further in the future than this was made with another clock, and is dropped.
const AHEAD_MAX_S: u64 = 3600;
const NAME: usize = 16;
const SECRET: usize = 32;
/// The most bytes of the file that are read: it has two or three keys.
const FILE_MAX: usize = 4096;

/// What the keys belong to: a digest of the authorities of clients' certificates.
pub(super) type Bound = [u8; 32];

struct TicketKey {
    /// The name by which tickets say which key has sealed them.
    name: [u8; NAME],
    secret: Zeroizing<[u8; SECRET]>,
    /// The time at which the key was made, in seconds since 1970.
    made_s: u64,
}

impl TicketKey {
    fn new(now_s: u64) -> Result<TicketKey, Unspecified> {
        let mut key = TicketKey { name: [0; NAME], secret: Zeroizing::new([0; SECRET]), made_s: now_s };
        rand::fill(&mut key.name)?;
        rand::fill(&mut *key.secret)?;
        Ok(key)
    }

    fn is_usable(&self, now_s: u64) -> bool {
        now_s < self.made_s + OPENS_S && self.made_s <= now_s + AHEAD_MAX_S
    }

    fn cipher(&self) -> Result<LessSafeKey, Unspecified> {
        UnboundKey::new(&AES_256_GCM, &*self.secret).map(LessSafeKey::new)
    }
}

struct Keys {
    /// The newest first. There is always one.
    list: Vec<TicketKey>,
    bound: Bound,
    /// The state file; none in a demo without state.
    file: Option<PathBuf>,
}

/// The keys of tickets; see the module's documentation.
pub(super) struct Tickets(RwLock<Keys>);

/// The keys are not shown.
impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tickets of {} keys", self.read().list.len())
    }
}

impl Tickets {
    /// New keys, which live in the process alone until [`Tickets::keep_in`] names a file.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub(super) fn new(bound: Bound, now_s: u64) -> Result<Tickets, Unspecified> {
        let list = vec![TicketKey::new(now_s)?];
        Ok(Tickets(RwLock::new(Keys { list, bound, file: None })))
    }

    /// Takes the keys of a state file, as far as they may still be used, and keeps all keys there from now on.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub(super) fn keep_in(&self, path: &Path, now_s: u64) -> io::Result<()> {
        let mut keys = self.write();
        match fs::read(path) {
            Ok(bytes) => {
                let text = Zeroizing::new(bytes);
                let found = parse(&text[..text.len().min(FILE_MAX)], &keys.bound);
                let mut usable: Vec<TicketKey> = found.into_iter().filter(|key| key.is_usable(now_s)).collect();
                usable.sort_by_key(|key| std::cmp::Reverse(key.made_s));
                if !usable.is_empty() {
                    keys.list = usable;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        keys.file = Some(path.to_owned());
        keys.save()
    }

    /// Makes a new key if the newest one has sealed tickets for long enough, and drops keys that open none any more.
    pub(super) fn rotate(&self, now_s: u64) {
        let is_due = |key: &TicketKey| now_s >= key.made_s + SEALS_S || !key.is_usable(now_s);
        if self.read().list.first().is_some_and(|newest| !is_due(newest)) {
            return;
        }
        self.renew(now_s, None);
    }

    /// Drops all keys if they belong to other authorities.
    pub(super) fn bind(&self, bound: Bound, now_s: u64) {
        if self.read().bound != bound {
            self.renew(now_s, Some(bound));
        }
    }

    fn renew(&self, now_s: u64, bound: Option<Bound>) {
        let Ok(key) = TicketKey::new(now_s) else {
            return warn!("no new key for TLS tickets could be made, because there are no random bytes");
        };
        let mut keys = self.write();
        match bound {
            Some(bound) => (keys.list, keys.bound) = (Vec::new(), bound),
            None => keys.list.retain(|key| key.is_usable(now_s)),
        }
        keys.list.insert(0, key);
        if let Err(error) = keys.save() {
            warn!(%error, "the keys of TLS tickets cannot be kept; clients that come back after a restart will not resume");
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Keys> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Keys> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    /// Writes the file anew, in a way that leaves either the old one or the new one.
    fn save(&self) -> io::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let mut text = Zeroizing::new(String::with_capacity(FILE_MAX));
        let _ = writeln!(text, "{}", hex(&self.bound));
        for key in &self.list {
            let _ = writeln!(text, "{} {} {}", key.made_s, hex(&key.name), &*Zeroizing::new(hex(&*key.secret)));
        }
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        // A file of that name is one that a crash has left behind, or another user's.
        let _ = fs::remove_file(&beside);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (text.len() == 2 * N && text.is_ascii()).then_some(())?;
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// The keys in a file's text; none if they belong to other authorities or the text is none of this program's.
fn parse(text: &[u8], bound: &Bound) -> Vec<TicketKey> {
    let Ok(text) = std::str::from_utf8(text) else { return Vec::new() };
    let mut lines = text.lines();
    if lines.next().and_then(unhex::<32>) != Some(*bound) {
        return Vec::new();
    }
    let key = |line: &str| {
        let mut words = line.split(' ');
        let made_s: u64 = words.next()?.parse().ok()?;
        let (name, secret) = (unhex(words.next()?)?, Zeroizing::new(unhex(words.next()?)?));
        (made_s < u64::MAX / 2).then_some(TicketKey { name, secret, made_s })
    };
    lines.filter_map(key).collect()
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        SEALS_S as u32
    }

    /// A ticket: the key's name, a nonce, and the sealed session.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.read();
        let key = keys.list.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let cipher = key.cipher().ok()?;
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        cipher.seal_in_place_append_tag(nonce_used, Aad::from(&key.name), &mut sealed).ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.read();
        let key = keys.list.iter().find(|key| key.name == *name)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key.cipher().ok()?.open_in_place(nonce, Aad::from(name), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const NOW: u64 = 1_700_000_000;
    const BOUND: Bound = [7; 32];

    fn tickets() -> Tickets {
        Tickets::new(BOUND, NOW).unwrap()
    }

    #[test]
    fn a_ticket_is_opened_by_its_key_alone() {
        let (ours, others) = (tickets(), tickets());
        let ticket = ours.encrypt(b"session").unwrap();
        assert_eq!(ours.decrypt(&ticket).unwrap(), b"session");
        assert_ne!(ours.encrypt(b"session").unwrap(), ticket, "each ticket has a nonce of its own");
        assert_eq!(others.decrypt(&ticket), None);
        for index in 0..ticket.len() {
            let mut other = ticket.clone();
            other[index] ^= 1;
            assert_eq!(ours.decrypt(&other), None, "byte {index}");
            assert_eq!(ours.decrypt(&ticket[..index]), None, "{index} bytes");
        }
    }

    #[test]
    fn keys_outlive_the_process_and_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tickets");
        let first = tickets();
        first.keep_in(&path, NOW).unwrap();
        let ticket = first.encrypt(b"session").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let after = |seconds: u64| {
            let tickets = Tickets::new(BOUND, NOW + seconds).unwrap();
            tickets.keep_in(&path, NOW + seconds).unwrap();
            tickets
        };
        assert_eq!(after(10).decrypt(&ticket).unwrap(), b"session");
        // Half a day later another key seals, and this one still opens.
        let later = after(SEALS_S);
        later.rotate(NOW + SEALS_S - 1);
        assert_eq!(later.encrypt(b"x").unwrap()[..NAME], ticket[..NAME]);
        later.rotate(NOW + SEALS_S);
        assert_ne!(later.encrypt(b"x").unwrap()[..NAME], ticket[..NAME]);
        assert_eq!(later.decrypt(&ticket).unwrap(), b"session");
        assert_eq!(after(SEALS_S + 1).decrypt(&ticket).unwrap(), b"session");
        // A day later it is gone, here and in the file.
        later.rotate(NOW + OPENS_S);
        assert_eq!(later.decrypt(&ticket), None);
        assert_eq!(after(OPENS_S).decrypt(&ticket), None);
        assert!(fs::read_to_string(&path).unwrap().lines().count() <= 3);
    }

    #[test]
    fn keys_go_with_the_authorities_and_with_a_damaged_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tickets");
        let first = tickets();
        first.keep_in(&path, NOW).unwrap();
        let ticket = first.encrypt(b"session").unwrap();
        first.bind(BOUND, NOW);
        assert!(first.decrypt(&ticket).is_some());
        let other = Tickets::new([8; 32], NOW).unwrap();
        other.keep_in(&path, NOW).unwrap();
        assert_eq!(other.decrypt(&ticket), None);
        first.bind([9; 32], NOW);
        assert_eq!(first.decrypt(&ticket), None);
        for text in ["", "x", "\u{e9}\n", &format!("{}\n1 2 3\n{} {}", hex(&BOUND), NOW, hex(&[0xff; 16]))] {
            fs::write(&path, text).unwrap();
            let tickets = tickets();
            tickets.keep_in(&path, NOW).unwrap();
            assert_eq!(tickets.read().list.len(), 1, "{text:?}");
        }
    }

    #[test]
    fn a_key_of_another_clock_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tickets");
        let ahead = Tickets::new(BOUND, NOW + 2 * AHEAD_MAX_S).unwrap();
        ahead.keep_in(&path, NOW + 2 * AHEAD_MAX_S).unwrap();
        let ticket = ahead.encrypt(b"session").unwrap();
        let now = tickets();
        now.keep_in(&path, NOW).unwrap();
        assert_eq!(now.decrypt(&ticket), None);
        ahead.rotate(NOW);
        assert_eq!(ahead.decrypt(&ticket), None);
    }
}
