//! Waiting on a runtime's ring until any descriptor is readable or writable.

use std::io;
use std::os::fd::OwnedFd;

/// A descriptor that is only waited for: a listener, an eventfd, a socket, another ring.
///
/// The runtime waits only for sockets of its own types. To wait, it asks the kernel for a poll, which works for every
/// descriptor: so the descriptor is wrapped as a socket, and only the poll is used.
#[derive(Debug)]
pub struct Readiness {
    stream: monoio::net::TcpStream,
}

impl Readiness {
    /// Takes the descriptor. Call this within the runtime that will wait.
    pub fn new(fd: OwnedFd) -> io::Result<Readiness> {
        let stream = monoio::net::TcpStream::from_std(std::net::TcpStream::from(fd))?;
        Ok(Readiness { stream })
    }

    /// Waits until there is something to read, accept or reap, or the other end has gone. Costs one poll operation on
    /// the runtime's ring.
    pub async fn wait(&self) -> io::Result<()> {
        self.stream.readable(false).await
    }

    /// Waits until the kernel takes more bytes, or the other end has gone. Costs one poll operation on the runtime's
    /// ring.
    pub async fn wait_for_room(&self) -> io::Result<()> {
        self.stream.writable(false).await
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::sys::socket;
    use crate::sys::wake::Wake;

    fn run(future: impl Future<Output = ()>) {
        monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build().unwrap().block_on(future);
    }

    #[test]
    fn an_eventfd_can_be_waited_for() {
        run(async {
            let wake = Wake::new().unwrap();
            let readiness = Readiness::new(wake.waitable().unwrap()).unwrap();
            for _ in 0..3 {
                wake.ring();
                readiness.wait().await.unwrap();
                wake.clear();
            }
        });
    }

    #[test]
    fn a_full_socket_can_be_waited_for_until_it_has_room_or_its_peer_is_gone() {
        run(async {
            let (near, mut far) = UnixStream::pair().unwrap();
            let readiness = Readiness::new(near.as_fd().try_clone_to_owned().unwrap()).unwrap();
            let fill = || {
                let mut sent = 0;
                while let Ok(length) = socket::send(near.as_fd(), &[0; 4096]) {
                    sent += length;
                }
                sent
            };
            let mut left = fill();
            let reader = std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while left > 0 {
                    left -= far.read(&mut buffer).unwrap();
                }
                far
            });
            readiness.wait_for_room().await.unwrap();
            let far = reader.join().unwrap();
            fill();
            drop(far);
            readiness.wait_for_room().await.unwrap();
        });
    }
}
