//! The stack of a thread: of the calling one, and of another one that stands still, which a signal has report its own.
//!
//! The signal's handler only walks the stack and stores addresses in a buffer that exists before. Names, files and lines are
//! looked up afterwards, by the thread that asked.

use std::ffi::c_void;
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most frames that are reported, the innermost first.
const FRAMES_MAX: usize = 64;
/// The signal that asks a thread for its stack. By default it is ignored, and nothing else in this process uses it.
const SIGNAL: i32 = libc::SIGURG;

/// No stack is asked for.
const IDLE: u32 = 0;
/// A thread was asked for its stack.
const ASKED: u32 = 1;
/// The thread is writing its stack down.
const WRITING: u32 = 2;
/// The stack is there.
const WRITTEN: u32 = 3;

/// The place where a thread writes its stack down.
struct Place {
    state: AtomicU32,
    thread: AtomicI32,
    count: AtomicUsize,
    frames: [AtomicUsize; FRAMES_MAX],
}

static PLACE: Place = Place {
    state: AtomicU32::new(IDLE),
    thread: AtomicI32::new(0),
    count: AtomicUsize::new(0),
    frames: [const { AtomicUsize::new(0) }; FRAMES_MAX],
};

/// The id of the calling thread, for [`of_thread`].
pub fn thread_id() -> i32 {
    // SAFETY: takes no pointers and cannot fail.
    unsafe { libc::gettid() }
}

/// Walks the calling thread's stack, and stores each frame's address.
fn walk(mut store: impl FnMut(usize) -> bool) {
    let visit = |frame: &backtrace::Frame| store(frame.ip() as usize);
    // SAFETY: the crate's lock, which this call leaves out, protects its symbol caches, which a walk does not use. The walk
    // itself only reads the stack and the program's unwind tables.
    unsafe { backtrace::trace_unsynchronized(visit) };
}

extern "C" fn on_signal(_: i32) {
    // SAFETY: the pointer is to this thread's own variable, which lives as long as the thread.
    let errno = unsafe { *libc::__errno_location() };
    let is_asked = PLACE.thread.load(Ordering::Acquire) == thread_id();
    if is_asked && PLACE.state.compare_exchange(ASKED, WRITING, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        let mut count = 0;
        walk(|address| {
            PLACE.frames[count].store(address, Ordering::Relaxed);
            count += 1;
            count < FRAMES_MAX
        });
        PLACE.count.store(count, Ordering::Relaxed);
        PLACE.state.store(WRITTEN, Ordering::Release);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Has the process answer the signal that asks for a stack.
///
/// # Errors
/// If the kernel refuses.
pub fn install() -> io::Result<()> {
    // The first walk may load and cache things, which a handler must not.
    walk(|_| true);
    // SAFETY: a sigaction of zeros is a value of the type; all fields that count are set below. The handler makes no call
    // that is not allowed in one: it stores to atomics, and walks the stack, for which the C library's unwinder takes no lock
    // and no memory once it has run before.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(i32) as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The stack of a thread of this process by the thread's id, as addresses, the innermost first. `None` if the thread did not
/// answer within `wait`, as when the kernel holds it in a call that no signal ends. [`install`] must come first.
pub fn of_thread(thread: i32, wait: Duration) -> Option<Vec<usize>> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    PLACE.thread.store(thread, Ordering::Release);
    // A thread that was too slow for an earlier call may still be writing.
    if PLACE.state.load(Ordering::Acquire) == WRITING {
        return None;
    }
    PLACE.state.store(ASKED, Ordering::Release);
    // SAFETY: takes no pointers. A thread that has ended is no thread of this process, and then the call fails.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) };
    let deadline = Instant::now() + wait;
    while result == 0 && PLACE.state.load(Ordering::Acquire) != WRITTEN && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = PLACE.state.compare_exchange(ASKED, IDLE, Ordering::AcqRel, Ordering::Relaxed);
    if PLACE.state.compare_exchange(WRITTEN, IDLE, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return None;
    }
    let count = PLACE.count.load(Ordering::Relaxed);
    Some(PLACE.frames[..count].iter().map(|frame| frame.load(Ordering::Relaxed)).collect())
}

/// The stack of the calling thread, as addresses, the innermost first.
pub fn here() -> Vec<usize> {
    let mut frames = Vec::new();
    walk(|address| {
        frames.push(address);
        frames.len() < FRAMES_MAX
    });
    frames
}

/// The frames of a stack as text: function, file and line, as far as the program's tables tell, else the address. Frames of
/// this module, of the signal, and of the thread's start are left out.
pub fn describe(frames: &[usize]) -> Vec<String> {
    let mut described = Vec::new();
    for (place, address) in frames.iter().enumerate() {
        // The outermost frame returns to nowhere.
        if *address == 0 {
            continue;
        }
        let before = described.len();
        // A return address is that of the instruction after the call, which may be of another line.
        let within = if place == 0 { *address } else { address.saturating_sub(1) };
        backtrace::resolve(within as *mut c_void, |symbol| {
            let name = symbol.name().map_or_else(|| format!("{address:#x}"), |name| format!("{name:#}"));
            let file = symbol.filename().map(|path| path.display().to_string());
            described.push(match file.zip(symbol.lineno()) {
                Some((file, line)) => format!("{name} at {}:{line}", short(&file)),
                None => name,
            });
        });
        if described.len() == before {
            described.push(format!("{address:#x}"));
        }
    }
    let is_own = |frame: &String| {
        let own = [concat!(module_path!(), "::"), "backtrace::", "__restore_rt"];
        own.iter().any(|own| frame.starts_with(own)) && !frame.contains("::tests::")
    };
    let first = described.iter().rposition(is_own).map_or(0, |last| last + 1);
    // What calls the thread's first function is the same for all threads.
    let is_start = |frame: &String| frame.starts_with("std::sys::backtrace::__rust_begin_short_backtrace");
    let end = described.iter().position(is_start).unwrap_or(described.len());
    // The return from the signal's handler has no name.
    let named = described.drain(first..end.max(first)).skip_while(|frame| frame.starts_with("0x"));
    named.collect()
}

/// A file's path as it is known to its readers: of this program from the top of its sources, of another crate from its name.
fn short(path: &str) -> &str {
    if let Some(own) = path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/")) {
        return own;
    }
    let Some(source) = path.rfind("/src/") else { return path };
    path[..source].rfind('/').map_or(path, |folder| &path[folder + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[inline(never)]
    fn a_function_that_stands_still(ready: &mpsc::Sender<i32>, end: &mpsc::Receiver<()>) {
        ready.send(thread_id()).unwrap();
        end.recv().unwrap();
    }

    #[test]
    fn a_thread_that_stands_still_reports_where() {
        install().unwrap();
        let (ready, thread) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let stuck = std::thread::spawn(move || a_function_that_stands_still(&ready, &ended));
        let thread = thread.recv().unwrap();
        let frames = of_thread(thread, Duration::from_secs(10)).unwrap();
        let described = describe(&frames);
        let found = described.iter().position(|frame| frame.contains("a_function_that_stands_still"));
        assert!(found.is_some_and(|place| described[place].contains("src/sys/stack.rs:")), "{described:#?}");
        assert!(!described.iter().any(|frame| frame.contains("on_signal")), "{described:#?}");
        end.send(()).unwrap();
        stuck.join().unwrap();
        // The thread has gone.
        assert_eq!(of_thread(thread, Duration::from_millis(50)), None);
    }

    #[test]
    fn a_thread_that_blocks_the_signal_is_not_waited_for_for_ever() {
        install().unwrap();
        let (ready, thread) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let deaf = std::thread::spawn(move || {
            // SAFETY: the set lives on this stack frame.
            unsafe {
                let mut set: libc::sigset_t = std::mem::zeroed();
                libc::sigaddset(&raw mut set, SIGNAL);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            }
            a_function_that_stands_still(&ready, &ended);
        });
        assert_eq!(of_thread(thread.recv().unwrap(), Duration::from_millis(50)), None);
        end.send(()).unwrap();
        deaf.join().unwrap();
    }

    #[test]
    fn the_own_stack_begins_at_the_caller() {
        let described = describe(&here());
        assert!(described[0].contains("the_own_stack_begins_at_the_caller"), "{described:#?}");
    }

    #[test]
    fn paths_are_shortened() {
        assert_eq!(
            short("/root/.cargo/registry/src/index/monoio-0.2.4/src/driver/mod.rs"),
            "monoio-0.2.4/src/driver/mod.rs"
        );
        assert_eq!(short("src/shard/mod.rs"), "src/shard/mod.rs");
        assert_eq!(short(concat!(env!("CARGO_MANIFEST_DIR"), "/src/shard/mod.rs")), "src/shard/mod.rs");
    }
}
