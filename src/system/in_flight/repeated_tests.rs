//! An id that is published again while its first event is in memory.

use std::sync::{Arc, Mutex};

use actix::{Actor, Context, Handler, ResponseFuture};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::settings::{PublisherSettings, Settings};
use crate::system::OutboxSystem;
use crate::test_support::{PATIENCE, eventually, postgres};
use crate::{HandleEvent, HandlerError, NewEvent, Subscribe};

/// Notes the events that it is given, and is busy with those of key `k` until it may end.
struct Busy {
    given: Arc<Mutex<Vec<(Uuid, i64)>>>,
    may_end: Arc<Semaphore>,
}

impl Actor for Busy {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Busy {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, HandleEvent { event, .. }: HandleEvent, _: &mut Self::Context) -> Self::Result {
        self.given.lock().unwrap().push((event.id, event.seq));
        let may_end = Arc::clone(&self.may_end);
        Box::pin(async move {
            if event.partition_key == "k" {
                let _ = may_end.acquire().await;
            }
            Ok(())
        })
    }
}

/// This worker lost the shard while its handler was busy. Another one delivered the event and deleted its row, and the shard came
/// back.
#[actix::test]
async fn a_later_event_does_not_pass_one_whose_id_is_published_again_while_its_handler_is_busy() {
    let database = postgres::database().await;
    let mut settings = Settings::default();
    settings.database.url = database.url.as_str().into();
    let local = PublisherSettings { backend: "local".to_owned(), ..PublisherSettings::default() };
    settings.publishers.insert("default".to_owned(), local);
    let (given, may_end) = (Arc::default(), Arc::new(Semaphore::new(0)));
    let busy = Busy { given: Arc::clone(&given), may_end: Arc::clone(&may_end) }.start();
    let builder = OutboxSystem::builder(settings).migrate(true);
    let worker = builder.subscribe(Subscribe::new("busy", "*", busy.recipient())).start().await.unwrap();
    let given = || given.lock().unwrap().iter().map(|(id, _)| *id).collect::<Vec<Uuid>>();
    let [repeated, later, other] = [1, 2, 3].map(Uuid::from_u128);
    let event = |id: Uuid, key: &str| NewEvent::new("t", "s").id(id).partition_key(key);

    worker.send(event(repeated, "k")).await.unwrap();
    eventually("its handler is busy", PATIENCE, async || given() == [repeated]).await;
    let client = database.connect().await;
    client.execute("DELETE FROM outbox_events", &[]).await.unwrap();
    for (id, key) in [(repeated, "k"), (later, "k"), (other, "k2")] {
        worker.send(event(id, key)).await.unwrap();
    }
    eventually("what follows is fetched", PATIENCE, async || given().contains(&other)).await;
    may_end.add_permits(1_000);
    eventually("all are handled", PATIENCE, async || given().len() == 4).await;
    assert_eq!(given(), [repeated, other, repeated, later]);
    worker.shutdown().await.unwrap();
}
