//! A program with the commands of `outbox` that also knows `backend = "kafka"`.
//!
//! ```sh
//! export DATABASE_URL=sqlite://app.db OUTBOX__PUBLISHERS__DEFAULT__BACKEND=kafka
//! export OUTBOX__PUBLISHERS__DEFAULT__BROKERS=localhost:9092
//! cargo run --manifest-path kafka/Cargo.toml --example worker -- migrate
//! cargo run --manifest-path kafka/Cargo.toml --example worker -- publish user.created --source shell --data '{"name": "Ada"}'
//! cargo run --manifest-path kafka/Cargo.toml --example worker -- worker --until-empty
//! ```

use std::process::ExitCode;

use actix_outbox::{OutboxSystem, Settings};

fn main() -> ExitCode {
    actix_outbox_cli::run(actix_outbox_kafka::register(OutboxSystem::builder(Settings::default())))
}
