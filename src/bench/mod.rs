//! The included load harness: `ringcast bench`.
