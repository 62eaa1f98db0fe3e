//! System calls and the ring: the only module with `unsafe`, and without any policy.
//!
//! Every function here is safe to call: each `unsafe` block carries the argument why. Descriptors are
//! owned (`OwnedFd`) or borrowed (`BorrowedFd`) so that none is closed twice or used after its close.

pub mod affinity;
pub mod clock;
#[cfg(feature = "bench")]
pub mod epoll;
pub mod fdtable;
pub mod inherited;
#[cfg(feature = "bench")]
pub mod load;
pub mod memory;
pub mod process;
pub mod readiness;
pub mod ring;
pub mod signal;
pub mod socket;
pub mod wake;
