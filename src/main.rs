//! The `ringcast` command: everything it does is in the library, so that tests and benches reach it.

/// Connections are many and small: mimalloc keeps their memory tight and its frees cheap.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ringcast::cli::main()
}
