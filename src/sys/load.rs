//! System calls of the load harness alone: private descriptor tables, the cores of threads and children, and many outgoing
//! connections from one address.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Gives the calling thread its own descriptor table, empty above standard error.
///
/// `RLIMIT_NOFILE` holds for each table, so one process can hold more connections than the limit says. All descriptors that
/// the thread has are closed in its table: call this before the thread opens any.
pub fn enter_private_table() -> io::Result<()> {
    // SAFETY: takes no pointers; it changes only which table the calling thread uses.
    if unsafe { libc::unshare(libc::CLONE_FILES) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // Copies would keep the other threads' sockets open after those have closed them.
    // SAFETY: takes no pointers; the table is this thread's alone, and by contract nothing of it is in use.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets the calling thread, and the threads it starts from now on, run on these cores only.
pub fn run_on(cores: &[usize]) -> io::Result<()> {
    set_affinity(&core_set(cores))
}

/// Prepares a child that ends with the thread that starts it, and runs on `cores` only (if there are none: on those of the
/// caller).
pub fn tie_child(command: &mut Command, cores: &[usize]) {
    let set = (!cores.is_empty()).then(|| core_set(cores));
    let prepare = move || {
        // SAFETY: takes no pointers.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
            return Err(io::Error::last_os_error());
        }
        set.as_ref().map_or(Ok(()), set_affinity)
    };
    // SAFETY: between fork and exec `prepare` only makes two system calls on values it owns; it allocates
    // nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

/// Makes a later `bind` to an address leave the choice of the port to `connect`, so that one address can have
/// its full range of ports towards each destination.
pub fn choose_port_late(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is a `c_int` that lives through the call, and its size is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the calling thread run before all ordinary threads whenever it is ready (`SCHED_FIFO`, sched(7)).
///
/// # Errors
/// `EPERM` without CAP_SYS_NICE.
pub fn run_promptly() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters live through the call; 0 is the calling thread.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Drops up to `length` received bytes of a TCP socket without copying them (`MSG_TRUNC`, tcp(7)), and returns their number.
pub fn discard(socket: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
    // SAFETY: with MSG_TRUNC the kernel writes nothing to the buffer of a TCP socket, so that none need be given.
    let taken =
        unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), length, libc::MSG_TRUNC | libc::MSG_DONTWAIT) };
    usize::try_from(taken).map_err(|_| io::Error::last_os_error())
}

/// Kills a process that a child of this one has left behind.
pub fn kill(pid: u32) {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    // SAFETY: takes no pointers. An error means that the process is gone already.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

fn core_set(cores: &[usize]) -> libc::cpu_set_t {
    // SAFETY: `cpu_set_t` is plain bits, all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &core in cores.iter().filter(|&&core| core < libc::CPU_SETSIZE as usize) {
        // SAFETY: `core` is within the set, as filtered above.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    set
}

fn set_affinity(set: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: `set` is a whole `cpu_set_t`; 0 is the calling thread.
    let done = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_prompt_thread_says_so_or_why_not() {
        std::thread::spawn(|| match run_promptly() {
            Ok(()) => assert!(std::fs::read_to_string("/proc/thread-self/sched").unwrap().contains("policy")),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        })
        .join()
        .unwrap();
    }

    #[test]
    fn discarded_bytes_are_counted_and_gone() {
        use std::io::Write;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        sender.write_all(b"0123456789").unwrap();
        assert_eq!(receiver.peek(&mut [0; 16]).unwrap(), 10);
        assert_eq!(discard(receiver.as_fd(), 4).unwrap(), 4);
        let mut rest = [0; 6];
        receiver.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"456789");
        assert_eq!(discard(receiver.as_fd(), 4).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(sender);
        assert_eq!(discard(receiver.as_fd(), 4).unwrap(), 0);
    }

    fn allowed(path: &str) -> String {
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    fn first_core() -> usize {
        allowed("/proc/thread-self/status").split(['-', ',']).next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_private_table_lets_go_of_what_others_close() {
        let (near, mut far) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let (entered, wait) = std::sync::mpsc::channel();
            let (leave, stay) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                enter_private_table().unwrap();
                entered.send(()).unwrap();
                let _ = stay.recv();
            });
            wait.recv().unwrap();
            drop(near);
            let mut end = [0];
            assert_eq!(far.read(&mut end).unwrap(), 0, "the other table holds no copy");
            drop(leave);
        });
    }

    #[test]
    fn a_thread_stays_where_it_is_told() {
        let core = first_core();
        let seen = std::thread::spawn(move || {
            run_on(&[core]).unwrap();
            allowed("/proc/thread-self/status")
        });
        assert_eq!(seen.join().unwrap(), core.to_string());
        assert!(run_on(&[]).is_err(), "no core at all is refused");
    }

    #[test]
    fn a_child_is_placed_and_tied() {
        let core = first_core();
        let mut command = Command::new("cat");
        command.arg("/proc/self/status");
        tie_child(&mut command, &[core]);
        let output = command.output().unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(line.lines().any(|line| line == format!("Cpus_allowed_list:\t{core}")), "{line}");
    }

    #[test]
    fn the_port_is_chosen_by_connect() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        choose_port_late(socket.as_fd()).unwrap();
        let source = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 1), 0);
        socket.bind(&source.into()).unwrap();
        assert_eq!(socket.local_addr().unwrap().as_socket().unwrap().port(), 0);
        socket.connect(&listener.local_addr().unwrap().into()).unwrap();
        let local = socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(local.ip().to_string(), "127.0.1.1");
        assert_ne!(local.port(), 0);
    }
}
