//! A network between a node and its broker that fails on order.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Network {
    /// It passes everything on.
    Whole,
    /// It passes everything on, later.
    Slow,
    /// It passes requests on and loses replies.
    OneWay,
    /// It takes bytes and loses them.
    Lost,
}

const DELAY: Duration = Duration::from_millis(50);

/// A listener whose connections go to a broker.
pub struct Proxy {
    pub port: u16,
    mode: Arc<AtomicU8>,
    /// Connections of a lower number are cut.
    cut_below: Arc<AtomicU64>,
    opened: Arc<AtomicU64>,
}

impl Proxy {
    pub fn start(broker: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, cut_below, opened) = (Arc::new(AtomicU8::new(0)), Arc::default(), Arc::new(AtomicU64::new(0)));
        let proxy = Proxy { port, mode: mode.clone(), cut_below, opened: opened.clone() };
        let cut_below = proxy.cut_below.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", broker)) else { continue };
                let number = opened.fetch_add(1, Ordering::SeqCst);
                for (from, to, is_reply) in [(&client, &server, false), (&server, &client, true)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (mode, cut_below) = (mode.clone(), cut_below.clone());
                    std::thread::spawn(move || {
                        pass(from, to, is_reply, || {
                            (cut_below.load(Ordering::SeqCst) <= number).then(|| mode.load(Ordering::SeqCst))
                        })
                    });
                }
            }
        });
        proxy
    }

    pub fn set(&self, network: Network) {
        self.mode.store(network as u8, Ordering::SeqCst);
    }

    /// Cuts all connections that there are.
    pub fn cut(&self) {
        self.cut_below.store(self.opened.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_reply: bool, mode: impl Fn() -> Option<u8>) {
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    while let Some(mode) = mode() {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        if mode == Network::Slow as u8 {
            std::thread::sleep(DELAY);
        }
        let is_lost = mode == Network::Lost as u8 || is_reply && mode == Network::OneWay as u8;
        if !is_lost && to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
