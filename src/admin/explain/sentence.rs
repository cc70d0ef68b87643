//! The reasons as sentences.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

use super::Reason;
use crate::event::Status;
use crate::store::BackendPause;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published { at } => published(f, *at),
            Self::Failed { at, attempts, error, published_at } => failed(f, *at, *attempts, error, *published_at),
            Self::Processing { since } => processing(f, *since),
            Self::Unreadable { problem } => unreadable(f, problem),
            Self::Scheduled { at } => write!(f, "It is scheduled for {}.", time(*at)),
            Self::Retrying { at, attempts, max_retries, error } => retrying(f, *at, *attempts, *max_retries, error),
            Self::Handlers { published_at, handlers, at, error } => {
                handlers_pending(f, *published_at, handlers.as_deref(), *at, error)
            }
            Self::Owed { published_at, handlers, error } => owed(f, *published_at, handlers, error),
            Self::WithoutPlace => {
                f.write_str("Its writer gave it no place in the order (`seq` is NULL); a worker sets it within 5 s.")
            }
            Self::BackendPaused { backend, pause } => {
                let (name, backend) = (&pause.backend, capital(&named(backend)));
                write!(
                    f,
                    "{backend} has been paused {}; `outbox backends resume {name}` ends that.",
                    without_end(pause)
                )
            }
            Self::NoWorker { last_heartbeat } => no_worker(f, *last_heartbeat),
            Self::UnknownBackend { backend, workers } => unknown_backend(f, backend, workers),
            Self::BehindKey { partition_key, event, status } => behind_key(f, partition_key, *event, *status),
            Self::StandingBy { backend, workers } => standing_by(f, backend, workers),
            Self::Paused { backend, worker, since, error } => paused(f, backend, worker, *since, error),
            Self::Unrecorded { backend, worker, since, error } => unrecorded(f, backend, worker, *since, error),
            Self::Stuck { backend, worker } => stuck(f, backend, worker),
            Self::NoOwner { backend, shard, workers } => no_owner(f, backend, *shard, workers),
            Self::RateLimited { backend, worker, per_second, ahead, more_ahead } => write!(
                f,
                "Worker {worker} may send {per_second} events a second to {}, and {} before it.",
                named(backend),
                are(*ahead, *more_ahead)
            ),
            Self::Due { since, worker, shard, ahead, more_ahead } => write!(
                f,
                "It has been due since {}, and worker {worker}, which owns its shard, {shard}, will send it: {} before it.",
                time(*since),
                are(*ahead, *more_ahead)
            ),
        }
    }
}

type Moment = DateTime<Utc>;

fn published(f: &mut fmt::Formatter<'_>, at: Option<Moment>) -> fmt::Result {
    match at {
        Some(at) => write!(f, "It was published at {}.", time(at)),
        None => f.write_str("It was published."),
    }
}

fn failed(
    f: &mut fmt::Formatter<'_>,
    at: Moment,
    attempts: i32,
    error: &str,
    published_at: Option<Moment>,
) -> fmt::Result {
    write!(f, "It failed at {}", time(at))?;
    match attempts {
        0 => f.write_str(" without a try")?,
        1 => f.write_str(" after one try")?,
        _ => write!(f, " after {attempts} tries")?,
    }
    if let Some(published_at) = published_at {
        write!(f, ", though its backend has had it since {}", time(published_at))?;
    }
    let again = match published_at {
        Some(_) => "calls its handlers again; it is not sent a second time",
        None => "sends it again",
    };
    write!(f, ": {} Fix the cause; then `outbox events retry` {again}.", sentence(error))
}

fn processing(f: &mut fmt::Formatter<'_>, since: Moment) -> fmt::Result {
    write!(
        f,
        "django-broadcaster's worker claimed it at {} and no other worker sends it; if that worker is gone, \
         `outbox events retry` releases it.",
        time(since)
    )
}

fn unreadable(f: &mut fmt::Formatter<'_>, problem: &str) -> fmt::Result {
    write!(
        f,
        "Its row is not a valid event; if it is pending or in retry, a worker records it as failed once due: {}",
        sentence(problem)
    )
}

fn retrying(f: &mut fmt::Formatter<'_>, at: Moment, attempts: i32, max_retries: i32, error: &str) -> fmt::Result {
    if attempts == 0 {
        return write!(f, "It waits until {} and has spent no retry: {}", time(at), sentence(error));
    }
    write!(
        f,
        "It was rejected {attempts} of {max_retries} times and will be retried at {}: {}",
        time(at),
        sentence(error)
    )
}

fn handlers_pending(
    f: &mut fmt::Formatter<'_>,
    published_at: Moment,
    handlers: Option<&[String]>,
    at: Option<Moment>,
    error: &str,
) -> fmt::Result {
    write!(f, "Its backend has had it since {}, and ", time(published_at))?;
    match handlers {
        Some(names) => write!(f, "these handlers must still run: {}", names.join(", "))?,
        None => f.write_str("its handlers must still run")?,
    }
    match at {
        Some(at) => write!(f, "; they are called again at {}", time(at))?,
        None => f.write_str("; its worker will call them")?,
    }
    end_with(f, error)
}

fn owed(f: &mut fmt::Formatter<'_>, published_at: Moment, handlers: &[String], error: &str) -> fmt::Result {
    write!(
        f,
        "Its backend has had it since {}, and it is owed to these handlers: {}; `outbox status` shows which of them are \
         alive",
        time(published_at),
        handlers.join(", ")
    )?;
    end_with(f, error)
}

/// Ends the sentence, with an error if there is one.
fn end_with(f: &mut fmt::Formatter<'_>, error: &str) -> fmt::Result {
    if error.is_empty() { f.write_str(".") } else { write!(f, ": {}", sentence(error)) }
}

fn no_worker(f: &mut fmt::Formatter<'_>, last_heartbeat: Option<Moment>) -> fmt::Result {
    match last_heartbeat {
        Some(at) => {
            write!(f, "No worker is alive; the last heartbeat was at {}. Start one: `outbox worker`.", time(at))
        }
        None => f.write_str("No worker is alive. Start one: `outbox worker`."),
    }
}

fn unknown_backend(f: &mut fmt::Formatter<'_>, backend: &str, workers: &[String]) -> fmt::Result {
    write!(
        f,
        "No live worker serves {}; those alive are {}. Configure it for one of them, or end the event with \
         `outbox events fail`.",
        named(backend),
        workers.join(", ")
    )
}

fn behind_key(f: &mut fmt::Formatter<'_>, partition_key: &str, event: Uuid, status: Status) -> fmt::Result {
    match status {
        Status::Failed => write!(
            f,
            "Event {event} of the same key, {partition_key:?}, failed and holds the key: decide about that one with \
             `outbox events retry` or `outbox events fail`."
        ),
        _ => write!(
            f,
            "It comes after event {event} of the same key, {partition_key:?}, which is {status}: `outbox events explain \
             {event}` says why."
        ),
    }
}

fn standing_by(f: &mut fmt::Formatter<'_>, backend: &str, workers: &BTreeMap<String, String>) -> fmt::Result {
    let reasons: Vec<String> = workers.iter().map(|(worker, reason)| format!("{worker}, because {reason}")).collect();
    write!(f, "Every live worker that serves {} is standing by: {}.", named(backend), reasons.join("; "))
}

fn paused(f: &mut fmt::Formatter<'_>, backend: &str, worker: &str, since: Option<Moment>, error: &str) -> fmt::Result {
    f.write_str(&capital(&named(backend)))?;
    match since {
        Some(since) => write!(f, " has been unavailable since {}", time(since))?,
        None => f.write_str(" is unavailable")?,
    }
    write!(f, ", reports worker {worker}, so nothing is sent and no retry is spent: {}", sentence(error))
}

fn unrecorded(f: &mut fmt::Formatter<'_>, backend: &str, worker: &str, since: Moment, error: &str) -> fmt::Result {
    write!(
        f,
        "Worker {worker} has an outcome for it from {}, which the database has not recorded since {}; the worker keeps \
         trying and does not send it again: {}",
        named(backend),
        time(since),
        sentence(error)
    )
}

fn stuck(f: &mut fmt::Formatter<'_>, backend: &str, worker: &str) -> fmt::Result {
    write!(
        f,
        "Worker {worker}, which serves {}, is stuck: its poll loop has stopped. Restart it; another worker takes its \
         shards once their leases have expired.",
        named(backend)
    )
}

fn no_owner(f: &mut fmt::Formatter<'_>, backend: &str, shard: i16, workers: &[String]) -> fmt::Result {
    write!(
        f,
        "No worker owns its shard, {shard} of {}; one of these takes it within the lease time and a second: {}.",
        named(backend),
        workers.join(", ")
    )
}

fn named(backend: &str) -> String {
    if backend.is_empty() { "the default backend".to_owned() } else { format!("backend {backend:?}") }
}

fn are(count: i64, more: bool) -> String {
    match (count, more) {
        (0, false) => "no event is".to_owned(),
        (1, false) => "one event is".to_owned(),
        (_, false) => format!("{count} events are"),
        (_, true) => format!("{count} events or more are"),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// A pause, whose reason may be a sentence of its own.
fn without_end(pause: &BackendPause) -> String {
    pause.to_string().trim_end_matches(['.', '!', ' ']).to_owned()
}

/// A foreign error text as a sentence.
pub(super) fn sentence(error: &str) -> String {
    let error = error.trim();
    match error.chars().last() {
        None => "no reason was given.".to_owned(),
        Some('.' | '!' | '?') => error.to_owned(),
        Some(_) => format!("{error}."),
    }
}

pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
