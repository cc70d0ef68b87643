//! Pausing and resuming backends.

use super::{AdminError, OutboxAdmin, Result};
use crate::store::{AuditNote, BackendPause, WorkerRow};

/// The longest reason of a pause, in characters.
const LONGEST_REASON: usize = 500;

impl OutboxAdmin {
    /// The backends that operators have paused.
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
        if !self.knows_backend(name).await? {
            return Err(AdminError::UnknownBackend { name: name.to_owned() });
        }
        let row = note(name, by, from).backend_row("pause", &shortened(reason));
        let paused = self.store.pause(name, row).await?;
        if paused {
            tracing::info!(backend = name, by, from, reason, "backend paused by an operator");
        }
        Ok(paused)
    }

    /// Ends a backend's pause. Returns whether it was paused.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn resume_backend(&self, name: &str, by: &str, from: &str) -> Result<bool> {
        let resumed = self.store.resume(name, note(name, by, from).backend_row("resume", "")).await?;
        if resumed {
            tracing::info!(backend = name, by, from, "backend resumed by an operator");
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

fn note(backend: &str, by: &str, from: &str) -> AuditNote {
    AuditNote::new(by, from, Some(format!("backend={backend}")))
}

fn shortened(reason: &str) -> String {
    reason.chars().filter(|c| *c != '\0').take(LONGEST_REASON).collect()
}
