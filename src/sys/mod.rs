//! System calls and the ring. All `unsafe` code of the program is here.
//!
//! Every function here is safe to call; each `unsafe` block says why. Descriptors are owned (`OwnedFd`) or borrowed
//! (`BorrowedFd`), so that none is closed twice or used after it was closed.

pub mod accounts;
pub mod affinity;
pub mod clock;
#[cfg(feature = "bench")]
pub mod epoll;
pub mod fdtable;
pub mod inherited;
pub mod kept;
#[cfg(feature = "bench")]
pub mod load;
pub mod memory;
pub mod process;
pub mod rights;
pub mod ring;
pub mod signal;
pub mod socket;
pub mod stack;
pub mod wake;
