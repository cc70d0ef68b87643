//! Records when the server last answered.
//!
//! An abandoned connection stays open at the server until the server notices. It has noticed once it works again, which any
//! later reply shows; a connection that is not accepted yet, only an accepted one that was begun later.

use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use super::connect::Target;

/// The time limit of a connection that only probes the server; if the server has been silent for longer, that time.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// The latest starts of requests that the server has answered.
pub(super) struct Pulse {
    answers: watch::Sender<Answers>,
    /// One probe serves all waiting callers.
    probing: Mutex<()>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Answers {
    /// When the latest answered connection was begun.
    connection: Option<Instant>,
    /// When the latest answered statement was sent, or the latest answered connection begun.
    any: Option<Instant>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { answers: watch::Sender::new(Answers::default()), probing: Mutex::default() }
    }
}

impl Pulse {
    /// Records that a connection begun at this time was answered, even by a refusal.
    pub(super) fn note_connection(&self, began: Instant) {
        self.answers.send_modify(|answers| {
            answers.connection = answers.connection.max(Some(began));
            answers.any = answers.any.max(Some(began));
        });
    }

    /// Records that a statement sent at this time was answered.
    pub(super) fn note_statement(&self, sent: Instant) {
        self.answers.send_modify(|answers| answers.any = answers.any.max(Some(sent)));
    }
}

impl Target {
    /// Returns once the server has answered a request since; sends one if no other caller does.
    pub(super) async fn answers_since(&self, moment: Instant) {
        let mut answers = self.pulse.answers.subscribe();
        tokio::select! {
            _ = answers.wait_for(|answers| answers.any >= Some(moment)) => {}
            () = self.accepts_since(moment) => {}
        }
    }

    /// Returns once a connection begun since was answered; makes one if no other caller does.
    pub(super) async fn accepts_since(&self, moment: Instant) {
        let _turn = self.pulse.probing.lock().await;
        while self.pulse.answers.borrow().connection < Some(moment) {
            let began = Instant::now();
            let limit = PROBE_LIMIT.max(began - moment);
            // Any answer is noted.
            let _ = self.open_within(Some(limit), "").await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;

    use super::*;
    use crate::test_support::PATIENCE;

    /// A server that accepts connections and never answers.
    async fn silent() -> (TcpListener, Arc<Target>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://127.0.0.1:{}/none", listener.local_addr().unwrap().port());
        (listener, Arc::new(Target::from_url(&url).unwrap()))
    }

    #[tokio::test]
    async fn a_statement_that_is_answered_shows_that_the_server_is_at_work() {
        let (_listener, target) = silent().await;
        let given_up = Instant::now();
        target.pulse.note_statement(given_up.checked_sub(Duration::from_secs(1)).unwrap());
        let waiting = tokio::spawn({
            let target = Arc::clone(&target);
            async move { target.answers_since(given_up).await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!waiting.is_finished(), "what was sent before shows nothing");
        target.pulse.note_statement(Instant::now());
        tokio::time::timeout(PATIENCE, waiting).await.expect("it ends").unwrap();
    }

    #[tokio::test]
    async fn only_a_connection_shows_that_the_server_accepts_connections() {
        let (_listener, target) = silent().await;
        let given_up = Instant::now();
        target.pulse.note_statement(Instant::now());
        let limit = Duration::from_millis(100);
        assert!(tokio::time::timeout(limit, target.accepts_since(given_up)).await.is_err());
        target.pulse.note_connection(Instant::now());
        tokio::time::timeout(PATIENCE, target.accepts_since(given_up)).await.expect("it ends");
    }
}
