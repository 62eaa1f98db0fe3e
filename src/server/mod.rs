//! Starts, drains and stops the threads.
