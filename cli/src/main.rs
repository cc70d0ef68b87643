//! The `outbox` program: the command line with the backends that come with the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    actix_outbox_cli::run(actix_outbox::Builder::default())
}
