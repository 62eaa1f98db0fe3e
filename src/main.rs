//! The `ringcast` command. Its code is in the library, so that tests and benches reach all of it.

/// The server's allocator. Connections are many and small; mimalloc packs them tightly and frees them cheaply.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ringcast::cli::main()
}
