//! The `outbox` program: the command line with the backends that come with the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let builder = actix_outbox::Builder::default();
    #[cfg(feature = "kafka")]
    let builder = actix_outbox_kafka::register(builder);
    actix_outbox_cli::run(builder)
}
