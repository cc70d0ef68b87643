//! Judges a stream of JetStream.

use super::Findings;
use super::backend::FULL;
use crate::backend::inspection::{BackendFacts, StreamFacts};

pub(super) fn judge(facts: &BackendFacts, findings: &mut Findings) {
    let Some(stream) = &facts.stream else { return };
    once(facts.version, stream, findings);
    storage(stream, findings);
    limits(stream, findings);
}

fn once(version: Option<(u32, u32)>, stream: &StreamFacts, findings: &mut Findings) {
    let Some((major, minor)) = version.filter(|version| *version < (2, 12)) else { return };
    findings.advice(
        "version",
        format!(
            "nats-server is of version {major}.{minor}: an event that is sent again after the duplicate window of stream {}, \
             {:?}, is stored twice",
            stream.name, stream.duplicate_window
        ),
        "use nats-server 2.12 or later, which has atomic batches",
    );
}

fn storage(stream: &StreamFacts, findings: &mut Findings) {
    let name = &stream.name;
    if stream.is_in_memory {
        findings.danger(
            "storage",
            format!(
                "stream {name} is kept in memory: a restart loses its messages, and the outbox has the events as published"
            ),
            "let the publisher write to a stream that is made with --storage file",
        );
    }
    if stream.has_lone_copy {
        findings.advice(
            "replicas",
            format!("stream {name} has one replica in its cluster: events wait while that server is down, and no other has a copy"),
            format!("run: nats stream edit {name} --replicas 3"),
        );
    }
}

fn limits(stream: &StreamFacts, findings: &mut Findings) {
    let name = &stream.name;
    for limit in stream.limits.iter().filter(|limit| limit.used as f64 > limit.most as f64 * FULL) {
        findings.danger(
            "limits",
            format!("stream {name} has {} of {} {}: when it is full, events wait", limit.used, limit.most, limit.what),
            format!("read faster, or raise its limit: nats stream edit {name} {}", limit.option),
        );
    }
}
