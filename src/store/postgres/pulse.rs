//! When the server has answered last.
//!
//! A connection that was given up is open at the server until the server sees that. It has seen it once it is at work
//! again, which any later answer shows; a connection that is not accepted, only an accepted one that was begun later.

use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use super::connect::Target;

/// A connection that only asks whether the server answers waits so long, and as long as the server has been silent.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// The latest moments since which the server has answered.
pub(super) struct Pulse {
    answers: watch::Sender<Answers>,
    /// One asks for all.
    probing: Mutex<()>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Answers {
    /// When the latest connection was begun that was answered.
    connection: Option<Instant>,
    /// When the latest statement was sent that was answered, or the latest connection begun.
    any: Option<Instant>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { answers: watch::Sender::new(Answers::default()), probing: Mutex::default() }
    }
}

impl Pulse {
    /// A connection that was begun then is answered, be it by a refusal.
    pub(super) fn note_connection(&self, began: Instant) {
        self.answers.send_modify(|answers| {
            answers.connection = answers.connection.max(Some(began));
            answers.any = answers.any.max(Some(began));
        });
    }

    /// A statement that was sent then is answered.
    pub(super) fn note_statement(&self, sent: Instant) {
        self.answers.send_modify(|answers| answers.any = answers.any.max(Some(sent)));
    }
}

impl Target {
    /// Returns once the server has answered anything since; asks where nobody else does.
    pub(super) async fn answers_since(&self, moment: Instant) {
        let mut answers = self.pulse.answers.subscribe();
        tokio::select! {
            _ = answers.wait_for(|answers| answers.any >= Some(moment)) => {}
            () = self.accepts_since(moment) => {}
        }
    }

    /// Returns once a connection that was begun since is answered; makes one where nobody else does.
    pub(super) async fn accepts_since(&self, moment: Instant) {
        let _turn = self.pulse.probing.lock().await;
        while self.pulse.answers.borrow().connection < Some(moment) {
            let began = Instant::now();
            let limit = PROBE_LIMIT.max(began - moment);
            if tokio::time::timeout(limit, self.open()).await.is_ok() {
                self.pulse.note_connection(began);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;

    use super::*;
    use crate::test_support::PATIENCE;

    /// A server that accepts connections and answers none.
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
