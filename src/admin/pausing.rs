//! Pausing and resuming backends.

use super::{AdminError, OutboxAdmin, Result};
use crate::store::{AuditNote, BackendPause, NewPause, WorkerRow};

/// The longest reason of a pause, in characters.
const LONGEST_REASON: usize = 500;

impl OutboxAdmin {
    /// The backends and the hosts that are paused.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn pauses(&self) -> Result<Vec<BackendPause>> {
        self.store.pauses().await
    }

    /// Pauses a backend, by the publisher's name, until [`resume_backend`](Self::resume_backend): workers finish what they
    /// are sending and release its shards. Its events wait; no retry is spent. Returns whether it was not paused before; a
    /// pause that exists stays as it is.
    ///
    /// Workers see it with their next heartbeat, within a third of the lease time; [`senders`](Self::senders) says whether
    /// all have.
    ///
    /// `by` and `from` say who asks and from where, for the log and the table of changes.
    ///
    /// # Errors
    /// [`AdminError::UnknownBackend`]: neither the settings nor a live worker knows the name. Errors of the database.
    pub async fn pause_backend(&self, name: &str, by: &str, from: &str, reason: &str) -> Result<bool, AdminError> {
        self.pause(name, "", by, from, reason).await
    }

    /// Pauses one host of a backend, such as a webhook's receiver, until [`resume_host`](Self::resume_host). The other hosts'
    /// events continue. Returns whether it was not paused before.
    ///
    /// # Errors
    /// As [`pause_backend`](Self::pause_backend).
    pub async fn pause_host(
        &self,
        name: &str,
        host: &str,
        by: &str,
        from: &str,
        reason: &str,
    ) -> Result<bool, AdminError> {
        self.pause(name, &host_name(host), by, from, reason).await
    }

    async fn pause(&self, name: &str, host: &str, by: &str, from: &str, reason: &str) -> Result<bool, AdminError> {
        if !self.knows_backend(name).await? {
            return Err(AdminError::UnknownBackend { name: name.to_owned() });
        }
        let reason = shortened(reason);
        let row = note(name, host, by, from).backend_row("pause", &reason);
        let pause = NewPause { backend: name.to_owned(), host: host.to_owned(), by: row.who().to_owned(), reason };
        let paused = self.store.pause(&pause, Some(row)).await?;
        if paused {
            tracing::info!(backend = name, host, by, from, reason = pause.reason, "backend paused by an operator");
        }
        Ok(paused)
    }

    /// Ends a backend's pause, and those of its hosts. Returns whether there was one.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn resume_backend(&self, name: &str, by: &str, from: &str) -> Result<bool> {
        self.resume(name, None, by, from).await
    }

    /// Ends the pause of one host of a backend. Returns whether it was paused.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn resume_host(&self, name: &str, host: &str, by: &str, from: &str) -> Result<bool> {
        self.resume(name, Some(&host_name(host)), by, from).await
    }

    async fn resume(&self, name: &str, host: Option<&str>, by: &str, from: &str) -> Result<bool> {
        let row = note(name, host.unwrap_or_default(), by, from).backend_row("resume", "");
        let resumed = self.store.resume(name, host, row).await?;
        if resumed {
            tracing::info!(backend = name, host, by, from, "backend resumed by an operator");
        }
        Ok(resumed)
    }

    /// The live workers that hold shards of a backend, and so may be sending to it.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn senders(&self, name: &str) -> Result<Vec<String>> {
        let lanes = self.settings.lanes_of(name);
        let holds =
            |worker: &WorkerRow| worker.shards.iter().any(|(lane, _)| lanes.contains(&&**lane) || **lane == *name);
        let workers = self.store.workers().await?.into_iter().filter(|worker| holds(worker));
        Ok(workers.filter(|worker| worker.is_alive(self.settings.worker.lease)).map(|worker| worker.name).collect())
    }

    async fn knows_backend(&self, name: &str) -> Result<bool> {
        if self.settings.publishers.contains_key(name) {
            return Ok(true);
        }
        let workers = self.store.workers().await?;
        Ok(!name.is_empty() && workers.iter().any(|worker| worker.reports().contains_key(name)))
    }
}

fn note(backend: &str, host: &str, by: &str, from: &str) -> AuditNote {
    let host = if host.is_empty() { String::new() } else { format!(" host={host}") };
    AuditNote::new(by, from, Some(format!("backend={backend}{host}")))
}

/// As the addresses of events are read.
fn host_name(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_lowercase()
}

fn shortened(reason: &str) -> String {
    reason.chars().filter(|c| *c != '\0').take(LONGEST_REASON).collect()
}
