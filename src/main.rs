//! The program: everything is in the library.

/// An issue makes some hundred small allocations on one thread and frees them on others: `docs/decisions/0005-allocator.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    chancery::cli::main()
}
