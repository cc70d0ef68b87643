//! The cases of the suite in which no broker dies; `faults` has those.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::*;
use crate::backend::session::{AtLeastOnce, BackendSession};
use crate::sessions::conformance::{Promise, Target};

/// A queue on the shared broker, and what was taken from it.
struct TestQueue {
    queue: Queue,
    taken: Mutex<Vec<Uuid>>,
}

#[async_trait]
impl Target for TestQueue {
    const PROMISE: Promise = Promise::AtLeastOnce;

    async fn create() -> Self {
        Self { queue: Queue::new(rabbitmq::shared()).await, taken: Mutex::default() }
    }

    fn port(&self) -> u16 {
        rabbitmq::shared().port()
    }

    fn session(&self, _outbox: Uuid, port: u16, limit: Duration) -> Box<dyn BackendSession> {
        let settings = PublisherSettings {
            connect_timeout: limit,
            socket_timeout: limit,
            ..settings(&rabbitmq::url_at(port), &self.queue.name)
        };
        Box::new(AtLeastOnce::new(Arc::new(RabbitMq::new(&settings).unwrap())))
    }

    async fn received(&self) -> Vec<Uuid> {
        let new = ids(&self.queue.take().await);
        let mut taken = self.taken.lock().unwrap();
        taken.extend(new.iter().map(|id| id.parse::<Uuid>().unwrap()));
        taken.clone()
    }

    async fn kill(&mut self) {
        panic!("other tests share the broker");
    }

    async fn start_again(&mut self) {
        panic!("other tests share the broker");
    }

    fn too_large(&self) -> Option<usize> {
        Some(rabbitmq::MAX_MESSAGE)
    }
}

crate::session_conformance! {
    TestQueue:
    accepted_events_arrive_once_and_in_order
    a_large_batch_arrives_whole_and_in_order
    a_refused_event_holds_back_its_key_alone
    an_open_whose_reply_was_lost_is_followed_by_another
}
