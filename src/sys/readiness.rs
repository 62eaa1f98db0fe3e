//! Waiting on a runtime's ring until any descriptor is readable.

use std::io;
use std::os::fd::OwnedFd;

/// A descriptor that is only waited for: a listener, an eventfd, another ring.
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

    /// Waits until there is something to read, accept or reap. Costs one poll operation on the runtime's ring.
    pub async fn wait(&self) -> io::Result<()> {
        self.stream.readable(false).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::wake::Wake;

    #[test]
    fn an_eventfd_can_be_waited_for() {
        let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build().unwrap();
        runtime.block_on(async {
            let wake = Wake::new().unwrap();
            let readiness = Readiness::new(wake.waitable().unwrap()).unwrap();
            for _ in 0..3 {
                wake.ring();
                readiness.wait().await.unwrap();
                wake.clear();
            }
        });
    }
}
