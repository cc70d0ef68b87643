//! The `outbox` command line, for the program `outbox` and for an application's own program.
//!
//! An application with its own handlers or backends passes its builder to [`run`], and its program gets the same commands:
//!
//! ```no_run
//! use actix_outbox::OutboxSystem;
//!
//! fn main() -> std::process::ExitCode {
//!     actix_outbox_cli::run(OutboxSystem::builder(Default::default()))
//! }
//! ```
//!
//! [`Builder::subscribe_with`](actix_outbox::Builder::subscribe_with) adds handler actors, which start with the worker.
//! `cli/examples/own_worker.rs` is such a program.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic that it failed"))]

mod arguments;
mod author;
mod backends;
#[cfg(feature = "bench")]
mod bench;
mod cleanup;
mod completions;
#[cfg(feature = "consumer")]
mod consume;
#[cfg(feature = "consumer")]
mod dead;
mod doctor;
mod events;
mod exit;
mod handlers;
mod health;
#[cfg(feature = "http")]
mod http;
mod logs;
mod man;
mod migrate;
mod output;
mod progress;
mod publish;
mod publish_batch;
#[cfg(all(test, feature = "http", feature = "bench"))]
mod reference;
mod status;
mod text_input;
#[cfg(feature = "otel")]
mod traces;
#[cfg(feature = "http")]
mod web;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use actix_outbox::admin::OutboxAdmin;
use actix_outbox::{Builder, LoadOptions, Settings};

use self::logs::LogFormat;

const AFTER_HELP: &str = "\
Settings, in order of precedence: flags, OUTBOX__… variables (OUTBOX__WORKER__BATCH_SIZE=50 sets batch_size under \
[worker]), DATABASE_URL, the settings file, defaults.

Environment:
  OUTBOX__…      any setting; `__` separates the names
  OUTBOX_CONFIG  the settings file, unless --config names one
  DATABASE_URL   the database, unless OUTBOX__DATABASE__URL or --database-url does
  OUTBOX_LOG     log filter for stderr, such as debug or actix_outbox=trace
                 (else RUST_LOG; else info for `worker` and `web`, warn otherwise)
  OUTBOX_LOG_FORMAT  text or json, unless --log-format is given
  OTEL_EXPORTER_OTLP_ENDPOINT  collector for traces, in a build with the feature `otel`

Exit codes:
  0  done
  1  failed
  2  bad usage or settings

Examples:
  outbox migrate --database-url postgres://localhost/app
  outbox publish user.created --source user-service --data '{\"id\": 7}' --key user-7
  outbox worker
  outbox events list --status failed";

/// A transactional outbox: events written in an application's database transaction reach Redis Streams once and, per
/// key, in order.
#[derive(Debug, Parser)]
#[command(name = "outbox", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    sources: Sources,
    /// The format of logs on stderr.
    #[arg(long, global = true, value_enum, default_value_t, env = "OUTBOX_LOG_FORMAT", value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Sources {
    /// The settings file [default: the file in OUTBOX_CONFIG, else ./outbox.toml if it exists].
    #[arg(long, global = true, value_name = "FILE", help_heading = "Settings")]
    config: Option<PathBuf>,
    /// The database, such as postgres://localhost/app or sqlite://outbox.db; overrides every other setting of it.
    #[arg(long, global = true, value_name = "URL", help_heading = "Settings")]
    database_url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Migrate(migrate::Args),
    Worker(worker::Args),
    Publish(Box<publish::Args>),
    #[command(subcommand)]
    Events(events::Command),
    #[command(subcommand)]
    Backends(backends::Command),
    #[command(subcommand)]
    Handlers(handlers::Command),
    #[cfg(feature = "consumer")]
    Consume(consume::Args),
    #[cfg(feature = "consumer")]
    #[command(subcommand)]
    Dead(dead::Command),
    Status(status::Args),
    Health(health::Args),
    Doctor(doctor::Args),
    Cleanup(cleanup::Args),
    #[cfg(feature = "http")]
    Web(web::Args),
    #[cfg(feature = "bench")]
    Bench(bench::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// Whether the command runs until it is stopped; such a command logs more.
    fn is_long_running(&self) -> bool {
        match self {
            Self::Worker(_) => true,
            #[cfg(feature = "consumer")]
            Self::Consume(_) => true,
            #[cfg(feature = "http")]
            Self::Web(_) => true,
            _ => false,
        }
    }
}

/// Runs the command in this process's arguments and returns its exit code: 0 done, 1 failed, 2 bad usage or settings.
/// Loaded settings replace those of the builder.
///
/// Creates its own runtimes: call it from a plain `main`, not from inside a runtime.
#[must_use]
pub fn run(builder: Builder) -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => exit::code(execute(cli, builder)),
        Err(error) => match error.print() {
            Ok(()) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE)),
            Err(unwritten) => exit::code(Err(unwritten.into())),
        },
    }
}

fn execute(cli: Cli, builder: Builder) -> anyhow::Result<()> {
    let _logs = logs::start(cli.log_format, cli.command.is_long_running())?;
    let sources = cli.sources;
    let load = || {
        let settings = sources.load()?;
        settings.database.require_url()?;
        anyhow::Ok(settings)
    };
    match cli.command {
        Command::Worker(args) => worker::run(args, load()?, builder),
        Command::Migrate(args) => {
            with_admin(builder, load()?, async |admin, settings| migrate::run(&args, settings, &admin).await)
        }
        Command::Publish(args) => with_admin(builder, load()?, async |admin, _| publish::run(*args, &admin).await),
        Command::Events(command) => with_admin(builder, load()?, async |admin, _| events::run(command, &admin).await),
        Command::Backends(command) => {
            with_admin(builder, load()?, async |admin, settings| backends::run(command, &admin, settings).await)
        }
        Command::Handlers(command) => {
            with_admin(builder, load()?, async |admin, _| handlers::run(command, &admin).await)
        }
        // Consumers may have no database.
        #[cfg(feature = "consumer")]
        Command::Consume(args) => consume::run(args, sources.load()?),
        #[cfg(feature = "consumer")]
        Command::Dead(command) => {
            let (settings, runtime) = (sources.load()?, runtime()?);
            let has_database = !settings.database.url.is_empty();
            let admin = has_database.then(|| builder.settings(settings.clone()).admin()).transpose()?;
            runtime.block_on(dead::run(command, &settings, admin.as_ref()))
        }
        #[cfg(feature = "consumer")]
        Command::Status(args) if args.consumers => runtime()?.block_on(status::run_consumers(&args, &sources.load()?)),
        Command::Status(args) => {
            with_admin(builder, load()?, async |admin, settings| status::run(&args, &admin, settings).await)
        }
        Command::Health(args) => with_admin(builder, load()?, async |admin, _| health::run(&args, &admin).await),
        Command::Doctor(args) => with_admin(builder, load()?, async |admin, _| doctor::run(&args, &admin).await),
        Command::Cleanup(args) => with_admin(builder, load()?, async |admin, _| cleanup::run(&args, &admin).await),
        #[cfg(feature = "http")]
        Command::Web(args) => web::run(&args, &load()?, &builder),
        #[cfg(feature = "bench")]
        Command::Bench(args) => bench::run(&args, &load()?),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// The name of this program: an application's own program has another one.
fn program() -> String {
    let path = std::env::args_os().next().map(PathBuf::from);
    let name = path.and_then(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    name.unwrap_or_else(|| "outbox".to_owned())
}

impl Sources {
    fn load(&self) -> anyhow::Result<Settings> {
        let mut options = LoadOptions::from_process();
        if let Some(file) = &self.config {
            options = options.file(file);
        }
        if let Some(url) = self.database_url.as_deref() {
            options = options.database_url(url);
        }
        Ok(Settings::load(&options)?)
    }
}

fn with_admin(
    builder: Builder,
    settings: Settings,
    work: impl AsyncFnOnce(OutboxAdmin, &Settings) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let admin = builder.settings(settings.clone()).admin()?;
    runtime.block_on(work(admin, &settings))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.context("cannot start the threads of the servers' drivers")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
