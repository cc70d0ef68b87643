//! The `outbox` program: the command line of [`actix_outbox::cli`] with the backends that come with the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    actix_outbox::cli::run(actix_outbox::Builder::default())
}
