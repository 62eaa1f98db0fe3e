//! Signals. One thread waits for them, so that they interrupt no other.

use std::io;

/// The signals the server acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: stop.
    Stop,
    /// SIGHUP: read the keys for tokens again.
    Reload,
}

fn handled() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set it is given; the additions name valid signals.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGHUP);
        set.assume_init()
    }
}

/// Blocks the handled signals for this thread and those that it starts, so that only [`wait`] takes them. Call this before
/// any other thread is started.
///
/// # Errors
/// If the kernel refuses.
pub fn block() -> io::Result<()> {
    let set = handled();
    // SAFETY: the set is initialised and lives on this stack frame; the old mask is not asked for.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Waits for the next handled signal.
///
/// # Errors
/// If the kernel refuses.
pub fn wait() -> io::Result<Signal> {
    let set = handled();
    let mut signal = 0;
    // SAFETY: both pointers are to this stack frame.
    let result = unsafe { libc::sigwait(&set, &mut signal) };
    match result {
        0 if signal == libc::SIGHUP => Ok(Signal::Reload),
        0 => Ok(Signal::Stop),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_waited_for() {
        std::thread::spawn(|| {
            block().unwrap();
            // SAFETY: sends a signal that this very thread has blocked to this very thread.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGHUP) };
            assert_eq!(wait().unwrap(), Signal::Reload);
        })
        .join()
        .unwrap();
    }
}
