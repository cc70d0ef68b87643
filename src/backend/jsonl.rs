//! `jsonl`: one CloudEvent as JSON a line, into a file or to standard output.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

use super::{BackendError, PublisherBackend};
use crate::cloud_event;
use crate::event::OutboxEvent;

/// Appends lines; a batch is one write, on disk before it is accepted.
pub(crate) struct Jsonl {
    /// `None`: standard output.
    path: Option<PathBuf>,
    file: Mutex<Option<File>>,
}

impl Jsonl {
    /// `-` is standard output.
    pub(crate) fn new(path: &str) -> Self {
        Self { path: (path != "-").then(|| PathBuf::from(path)), file: Mutex::new(None) }
    }

    async fn append(&self, lines: &[u8]) -> std::io::Result<()> {
        let Some(path) = &self.path else {
            let mut out = tokio::io::stdout();
            out.write_all(lines).await?;
            return out.flush().await;
        };
        let mut slot = self.file.lock().await;
        // Taken out, so that a write that fails half-way is followed by a fresh open.
        let mut file = match slot.take() {
            Some(file) => file,
            None => OpenOptions::new().create(true).append(true).open(path).await?,
        };
        file.write_all(lines).await?;
        file.flush().await?;
        file.sync_data().await?;
        *slot = Some(file);
        Ok(())
    }

    fn unavailable(&self, error: &std::io::Error) -> BackendError {
        let place = self.path.as_ref().map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
        BackendError::Unavailable(format!("cannot write to {place}: {error}"))
    }
}

#[async_trait]
impl PublisherBackend for Jsonl {
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        let mut line = cloud_event::to_json(event);
        line.push('\n');
        self.append(line.as_bytes()).await.map_err(|error| self.unavailable(&error))
    }

    async fn publish_batch(&self, events: &[Arc<OutboxEvent>]) -> Vec<Option<Result<(), BackendError>>> {
        let mut lines = String::new();
        for event in events {
            lines.push_str(&cloud_event::to_json(event));
            lines.push('\n');
        }
        match self.append(lines.as_bytes()).await {
            Ok(()) => vec![Some(Ok(())); events.len()],
            Err(error) => vec![Some(Err(self.unavailable(&error))); events.len()],
        }
    }

    async fn health_check(&self) -> Result<(), BackendError> {
        self.append(b"").await.map_err(|error| self.unavailable(&error))
    }
}
