//! Judges a database.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Findings, mysql};
use crate::store::{ConnectionFacts, DatabaseFacts};

/// The outbox's own statements may take this long; a shorter limit of the server cuts them off.
const SHORTEST_LIMIT: Duration = Duration::from_secs(15);

/// `needed`: the connections of one worker.
pub(super) fn judge(
    facts: &DatabaseFacts,
    needed: Option<i64>,
    long_transaction: Duration,
    now: DateTime<Utc>,
    findings: &mut Findings,
) {
    durability(facts, findings);
    mysql::judge(facts, findings);
    limits(facts, findings);
    vacuum(facts, long_transaction, findings);
    tables(facts, findings);
    if let (Some(connections), Some(needed)) = (facts.connections, needed) {
        judge_connections(connections, needed, findings);
    }
    findings.clock(facts.clock, now);
}

fn is(facts: &DatabaseFacts, name: &str, value: &str) -> bool {
    facts.settings.get(name).is_some_and(|setting| setting == value)
}

fn durability(facts: &DatabaseFacts, findings: &mut Findings) {
    for name in ["fsync", "full_page_writes"] {
        if is(facts, name, "off") {
            findings.danger(
                "durability",
                format!("{name} is off: a crash of the machine may lose or damage committed events"),
                format!("set {name} = on"),
            );
        }
    }
    if is(facts, "synchronous_commit", "off") {
        findings.advice(
            "synchronous_commit",
            "synchronous_commit is off for this role: a crash may lose events that were just committed, with the rest of \
             their transactions",
            "set it to on, at least for the transactions that publish; the outbox's own statements set it themselves",
        );
    }
    if facts.lacks_standby {
        findings.danger(
            "standby",
            "synchronous_standby_names is set and no synchronous standby is connected: commits wait",
            "connect the standby, or change synchronous_standby_names",
        );
    }
}

fn limits(facts: &DatabaseFacts, findings: &mut Findings) {
    if is(facts, "default_transaction_read_only", "on") {
        findings.danger(
            "read_only",
            "default_transaction_read_only is on for this role: nothing can be recorded",
            "ALTER ROLE … SET default_transaction_read_only = off",
        );
    }
    for name in ["statement_timeout", "lock_timeout", "transaction_timeout", "idle_in_transaction_session_timeout"] {
        let Some(limit) = facts.settings.get(name).and_then(|limit| limit.parse().ok()).map(Duration::from_millis)
        else {
            continue;
        };
        if !limit.is_zero() && limit < SHORTEST_LIMIT {
            findings.advice(
                "timeouts",
                format!("{name} is {limit:?} for this role, shorter than the outbox's own limits: the server ends statements"),
                format!("ALTER ROLE … SET {name} = 0; the outbox limits its statements itself"),
            );
        }
    }
    if facts.settings.get("idle_session_timeout").is_some_and(|limit| limit != "0") {
        findings.advice(
            "timeouts",
            "idle_session_timeout is set for this role: the server ends idle connections, which are then made again",
            "ALTER ROLE … SET idle_session_timeout = 0",
        );
    }
    if is(facts, "track_activities", "off") {
        findings.advice(
            "track_activities",
            "track_activities is off: whether a commit still waits for a standby cannot be seen",
            "set track_activities = on",
        );
    }
}

fn vacuum(facts: &DatabaseFacts, long_transaction: Duration, findings: &mut Findings) {
    let mut off: Vec<&str> = facts.without_autovacuum.iter().map(String::as_str).collect();
    if is(facts, "autovacuum", "off") {
        off.insert(0, "the whole server");
    }
    if !off.is_empty() {
        findings.danger(
            "autovacuum",
            format!("autovacuum is off for {}: dead rows slow everything down, more every hour", off.join(", ")),
            "switch it on; the outbox sets thresholds for its tables itself",
        );
    }
    if let Some((age, what)) = facts.oldest_transaction.as_ref().filter(|(age, _)| *age > long_transaction) {
        let seconds = age.as_secs();
        findings.advice(
            "long_transaction",
            format!("{what} has had a transaction open for {seconds} s: vacuum removes nothing that is newer"),
            "end it; set idle_in_transaction_session_timeout for applications",
        );
    }
}

fn tables(facts: &DatabaseFacts, findings: &mut Findings) {
    if !facts.missing_indexes.is_empty() {
        findings.danger(
            "indexes",
            format!(
                "indexes are missing or not valid: {}; fetching reads the whole table",
                facts.missing_indexes.join(", ")
            ),
            "create them as in migrations/postgres/0001_outbox/indexes.sql, or REINDEX",
        );
    }
    if !facts.cascades.is_empty() {
        findings.advice(
            "cascades",
            format!("foreign keys change other tables when an event is deleted: {}", facts.cascades.join(", ")),
            "retention deletes events, and so do settles where published_retention_days is 0; use ON DELETE NO ACTION, and delete what refers to an event first",
        );
    }
    if facts.has_no_seq_default {
        findings.danger(
            "seq",
            "the column seq has no default: events are written without a place in the order, and wait until a worker repairs them",
            "ALTER TABLE outbox_events ALTER COLUMN seq SET DEFAULT nextval('outbox_events_seq')",
        );
    }
}

fn judge_connections(connections: ConnectionFacts, needed: i64, findings: &mut Findings) {
    let ConnectionFacts { most, role_limit, of_others } = connections;
    if let Some(limit) = role_limit.filter(|limit| *limit < needed) {
        findings.danger(
            "connections",
            format!("this role may have {limit} connections, and a worker has up to {needed}"),
            format!("ALTER ROLE … CONNECTION LIMIT {needed} for each worker, or lower database.connections"),
        );
    }
    let left = most - of_others;
    if left < needed {
        findings.danger(
            "connections",
            format!(
                "the server allows {most} connections, of which others have {of_others}; a worker has up to {needed}"
            ),
            "raise max_connections, lower database.connections, or use a pooler",
        );
    }
}
