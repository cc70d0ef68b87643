//! The consumer's program: this test binary, started again, as examples/inbox_consumer.rs.

use std::process::Command;

use crate::deployment::{Deployment, LEASE};
use crate::worker_slots::WorkerSlot;

#[path = "../../../../examples/inbox_consumer.rs"]
mod inbox_consumer;

const MARK: &str = "OUTBOX_FAULTS_CONSUMER";
const TEST: &str = "consumers::program::a_consumer_works_until_it_is_told_to_end";

/// The group, and the consumer's name in the settings.
pub(super) const GROUP: &str = "effects";

/// Writes the settings of the consumers in a slot. An outage of their database may reject an event often.
pub(super) fn configure(deployment: &Deployment, slot: &WorkerSlot) {
    let folder = deployment.folder().join(format!("consumer-{}", slot.number));
    std::fs::create_dir(&folder).unwrap();
    let (redis, lease) = (deployment.redis_address(slot), LEASE.as_secs());
    let settings = format!(
        "[publishers.default]\nbackend = \"redis_stream\"\nurl = \"{redis}\"\nstream_name = \"{}\"\npartitions = {}\n\n\
         [consumers.{GROUP}]\nsource = \"default\"\nreclaim_after = \"{lease}s\"\nlease = \"{lease}s\"\n\
         max_deliveries = 100000\nretry_backoff = {{ base = \"50ms\", max = \"500ms\" }}\n\
         connect_timeout = \"1s\"\nsocket_timeout = \"1s\"\nshutdown_timeout = \"5s\"\n",
        deployment.stream_name(),
        deployment.partitions(),
    );
    std::fs::write(folder.join("outbox.toml"), settings).unwrap();
}

pub(super) fn command(deployment: &Deployment, slot: &WorkerSlot) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", TEST]).env(MARK, "1");
    let mut command = deployment.without_environment(command);
    command.current_dir(deployment.folder().join(format!("consumer-{}", slot.number)));
    command
}

#[test]
#[ignore = "the program of a consumer, which others start and end"]
fn a_consumer_works_until_it_is_told_to_end() {
    if std::env::var_os(MARK).is_none() {
        return;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_max_level(tracing::Level::INFO).init();
    inbox_consumer::main().unwrap();
}
