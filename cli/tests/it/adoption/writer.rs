//! A writer that inserts as Django does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

/// Inserts exactly the columns of django-broadcaster, as its model does.
const INSERT: &str = "INSERT INTO outbox_events (id, spec_version, event_type, source, subject, data_content_type,
        data_schema, data, status, created_at, updated_at, scheduled_at, published_at, retry_count, max_retries,
        last_error, publisher_backend, publisher_config)
    VALUES ($1::text::uuid, '1.0', 'thing.happened', 'writer', '', 'application/json', '', '{\"n\": 1}', 'pending',
        clock_timestamp(), clock_timestamp(), clock_timestamp(), NULL, 0, 3, '', '', '{}')";

/// Writes events, each in its own transaction, until it is stopped.
pub(super) struct Writer {
    stop: Arc<AtomicBool>,
    writing: JoinHandle<Written>,
}

/// The written events.
pub(super) struct Written {
    pub(super) ids: Vec<String>,
    pub(super) longest: Duration,
}

impl Writer {
    pub(super) async fn start(client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let insert = client.prepare(INSERT).await.unwrap();
        let writing = tokio::spawn(write(client, insert, Arc::clone(&stop)));
        Self { stop, writing }
    }

    pub(super) async fn stop(self) -> Written {
        self.stop.store(true, Ordering::SeqCst);
        self.writing.await.unwrap()
    }
}

async fn write(client: Client, insert: Statement, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written { ids: Vec::new(), longest: Duration::ZERO };
    while !stop.load(Ordering::SeqCst) {
        let (id, began) = (Uuid::new_v4().to_string(), Instant::now());
        client.execute(&insert, &[&id]).await.unwrap();
        written.longest = written.longest.max(began.elapsed());
        written.ids.push(id);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    written
}
