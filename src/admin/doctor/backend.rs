//! Judges what a backend says about itself: Redis here, JetStream in a file of its own.

use chrono::{DateTime, Utc};

use super::{Findings, jetstream};
use crate::backend::inspection::BackendFacts;
use crate::settings::PublisherSettings;
use crate::settings::name_template::NameTemplate;

/// A group that has used up this share of `max_len` is about to lose entries; so it is with `max_streams`.
pub(super) const FULL: f64 = 0.8;

pub(super) fn judge(publisher: &PublisherSettings, facts: &BackendFacts, now: DateTime<Utc>, findings: &mut Findings) {
    match publisher.backend.as_str() {
        "redis_stream" => {
            version(publisher, facts, findings);
            journal_eviction(facts, findings);
            persistence(facts, findings);
            replicas(publisher, facts, findings);
            groups(publisher, facts, findings);
            streams(publisher, facts, findings);
        }
        "redis_list" => {
            list_eviction(facts, findings);
            persistence(facts, findings);
            replicas(publisher, facts, findings);
        }
        // Redis stores nothing for it.
        "redis_pubsub" => {}
        "nats" => jetstream::judge(facts, findings),
        _ => return,
    }
    if !facts.forbidden.is_empty() {
        findings.advice(
            "rights",
            format!("this user may not ask {}, so not everything was checked", facts.forbidden.join(", ")),
            "run the doctor with a user that may: +info +time +config|get +xinfo",
        );
    }
    findings.clock(facts.clock, now);
}

fn version(publisher: &PublisherSettings, facts: &BackendFacts, findings: &mut Findings) {
    let Some((major, minor)) = facts.version.filter(|version| *version < (6, 2)) else { return };
    if publisher.max_age.is_some() {
        findings.danger(
            "version",
            format!("Redis is of version {major}.{minor}, and max_age needs 6.2: nothing can be sent"),
            "leave out max_age, or use Redis 7 or later, or Valkey",
        );
    } else {
        findings.advice(
            "version",
            format!("Redis is of version {major}.{minor}: consumers that claim entries need 6.2"),
            "use Redis 7 or later, or Valkey",
        );
    }
}

fn journal_eviction(facts: &BackendFacts, findings: &mut Findings) {
    eviction(facts, "may drop the journal, and events in flight are sent twice", findings);
}

fn list_eviction(facts: &BackendFacts, findings: &mut Findings) {
    eviction(facts, "may drop a list with all events that wait in it", findings);
}

fn eviction(facts: &BackendFacts, effect: &str, findings: &mut Findings) {
    let Some((policy, limit)) = facts.eviction.as_ref().filter(|(policy, _)| policy != "noeviction") else { return };
    let problem = format!("maxmemory-policy is {policy}: a full Redis {effect}");
    let advice = "set maxmemory-policy noeviction; a full Redis then refuses writes, and the events wait";
    match (policy.starts_with("volatile-"), *limit) {
        (false, 1..) => findings.danger("eviction", problem, advice),
        // Nothing that the outbox writes expires; without a limit nothing is evicted.
        _ => findings.advice("eviction", problem, advice),
    }
}

fn persistence(facts: &BackendFacts, findings: &mut Findings) {
    if facts.has_append_only_file != Some(false) {
        return;
    }
    if facts.snapshots.as_deref() == Some("") {
        findings.danger(
            "persistence",
            "Redis saves nothing: a restart loses every entry, and the outbox has the events as published",
            "set appendonly yes, or replicas that survive",
        );
    } else {
        findings.advice(
            "persistence",
            "Redis saves snapshots only: a crash loses the entries since the last one, and the outbox has the events as published",
            "set appendonly yes, or wait_replicas",
        );
    }
}

fn replicas(publisher: &PublisherSettings, facts: &BackendFacts, findings: &mut Findings) {
    let (Some(wanted), Some(connected)) = (publisher.wait_replicas, facts.replicas) else { return };
    if connected < wanted.count {
        findings.danger(
            "replicas",
            format!(
                "wait_replicas wants {} replicas, and {connected} are connected: nothing can be sent",
                wanted.count
            ),
            "connect replicas, or lower wait_replicas",
        );
    }
}

fn streams(publisher: &PublisherSettings, facts: &BackendFacts, findings: &mut Findings) {
    let (used, most) = (facts.streams, publisher.max_streams);
    if !NameTemplate::new(&publisher.stream_name).is_fixed() && most > 0 && used as f64 > most as f64 * FULL {
        findings.danger(
            "max_streams",
            format!(
                "{used} streams of {most} that `max_streams` allows exist: events for further ones are marked failed"
            ),
            "raise max_streams, or check what `stream_name` is filled with",
        );
    }
}

fn groups(publisher: &PublisherSettings, facts: &BackendFacts, findings: &mut Findings) {
    let most = publisher.max_len;
    for group in facts.groups.iter().filter(|_| most > 0) {
        let behind = group.lag.unwrap_or(0).saturating_add(group.pending);
        if behind as f64 > most as f64 * FULL {
            findings.danger(
                "max_len",
                format!(
                    "group {:?} is {behind} entries behind in {:?}, and the stream keeps {most}: it loses entries, or is \
                     about to",
                    group.name, group.stream
                ),
                "raise max_len, or add consumers; `outbox events replay` sends lost entries again",
            );
        }
    }
}
