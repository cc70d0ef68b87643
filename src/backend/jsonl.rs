//! `jsonl`: writes each event as one line of CloudEvents JSON, to a file or to standard output.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::Mutex;

use super::{BackendError, PublisherBackend};
use crate::cloud_event;
use crate::event::OutboxEvent;

/// Appends lines; a batch is one write, and is accepted once it is on disk.
pub(crate) struct Jsonl {
    /// `None`: standard output.
    path: Option<PathBuf>,
    file: Mutex<Option<File>>,
}

impl Jsonl {
    /// A backend for this file; `-` is standard output.
    pub(crate) fn new(path: &str) -> Self {
        Self { path: (path != "-").then(|| PathBuf::from(path)), file: Mutex::new(None) }
    }

    async fn append(&self, lines: &[u8]) -> io::Result<()> {
        let Some(path) = &self.path else {
            let mut out = tokio::io::stdout();
            out.write_all(lines).await?;
            return out.flush().await;
        };
        let mut slot = self.file.lock().await;
        // Taken out, so that the file is opened again after a write that failed halfway.
        let mut file = match slot.take() {
            Some(file) => file,
            None => open(path).await?,
        };
        file.write_all(lines).await?;
        file.flush().await?;
        file.sync_data().await?;
        *slot = Some(file);
        Ok(())
    }

    fn unavailable(&self, error: &io::Error) -> BackendError {
        let place = self.path.as_ref().map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
        BackendError::Unavailable(format!("cannot write to {place}: {error}"))
    }
}

/// Opens the file for new lines: behind the end of a line that a crash or a full disk has torn, and with the file's name
/// flushed in its folder.
async fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Events are not for every user of the machine.
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.create(true).append(true).open(path).await?;
    // Pipes and devices have no last line and no folder to flush.
    if file.metadata().await?.is_file() {
        sync_folder(path).await?;
        if is_torn(path).await? {
            file.write_all(b"\n").await?;
        }
    }
    Ok(file)
}

async fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).await {
        Ok(folder) => folder.sync_all().await,
        Err(error) => where_permitted(error),
    }
}

/// Whether the last line is incomplete.
async fn is_torn(path: &Path) -> io::Result<bool> {
    let mut file = match File::open(path).await {
        Ok(file) => file,
        Err(error) => return where_permitted(error).map(|()| false),
    };
    if file.seek(SeekFrom::End(0)).await? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1)).await?;
    Ok(file.read_u8().await? != b'\n')
}

/// Ignores missing permissions: a file may be writable and not readable for this process, and so may its folder.
fn where_permitted(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::PermissionDenied { Ok(()) } else { Err(error) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[tokio::test]
    async fn an_event_begins_on_a_new_line_also_behind_one_that_was_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let backend = || Jsonl::new(path.to_str().unwrap());
        let read = || std::fs::read_to_string(&path).unwrap();
        let (first, second) = (fixtures::event(1, ""), fixtures::event(2, ""));

        backend().publish(&first).await.unwrap();
        backend().publish(&second).await.unwrap();
        let whole = read();
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777, 0o600);
        assert_eq!(whole.lines().count(), 2, "no empty line between lines that are whole");

        // As a crash in the middle of the second line leaves it.
        let torn = whole[..whole.len() - 10].to_owned();
        std::fs::write(&path, &torn).unwrap();
        backend().health_check().await.unwrap();
        backend().publish(&second).await.unwrap();
        assert_eq!(read(), format!("{torn}\n{}\n", cloud_event::to_json(&second)));
    }
}
