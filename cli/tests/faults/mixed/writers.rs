//! Writers of each kind: SQL of another program, `Outbox::send`, and `Outbox::transaction`.

use std::time::Duration;

use actix_outbox::{NewEvent, Outbox, OutboxSystem, PublishError, Settings, publish};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::plan::Plan;
use crate::support::PATIENCE;

const WRITERS: u64 = 6;
/// Enough keys that the retries of a key's events, which are fetched once a second, can keep up.
const KEYS: u32 = 16;
const MOST_EVENTS: usize = 6;

#[derive(Debug, Clone, Copy)]
enum Door {
    Sql,
    Send,
    Transaction,
}

const DOORS: [Door; 3] = [Door::Sql, Door::Send, Door::Transaction];

pub(super) struct Writers {
    stop: watch::Sender<bool>,
    writing: Vec<JoinHandle<Vec<Plan>>>,
    producer: Producer,
}

impl Writers {
    pub(super) async fn start(url: &str, seed: u64) -> Self {
        let (stop, producer) = (watch::Sender::new(false), Producer::start(url).await);
        let writing = (0..WRITERS).map(|number| {
            let writer = Writer {
                number,
                door: DOORS[number as usize % DOORS.len()],
                url: url.to_owned(),
                outbox: producer.outbox.clone(),
                rng: StdRng::seed_from_u64(seed ^ (number + 101) << 32),
                stop: stop.subscribe(),
                written: Vec::new(),
            };
            tokio::spawn(writer.write_on())
        });
        Self { writing: writing.collect(), producer, stop }
    }

    /// The events that each writer committed, in the order of its commits.
    pub(super) async fn finish(self) -> Vec<Vec<Plan>> {
        self.stop.send_replace(true);
        let mut written = Vec::new();
        for writer in self.writing {
            written.push(tokio::time::timeout(PATIENCE, writer).await.expect("a writer ends").unwrap());
        }
        self.producer.end().await;
        written
    }
}

/// An application that publishes, on its own thread.
struct Producer {
    outbox: Outbox,
    end: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Producer {
    async fn start(url: &str) -> Self {
        let settings = Settings::from_toml(&format!("[database]\nurl = \"{url}\"")).unwrap();
        let ((give, taken), (end, ended)) = (oneshot::channel(), oneshot::channel());
        let thread = std::thread::spawn(move || {
            actix::System::new().block_on(async move {
                let outbox = OutboxSystem::builder(settings).publish_only(true).start().await.unwrap();
                drop(give.send(outbox.clone()));
                let _ = ended.await;
                outbox.shutdown().await.unwrap();
            });
        });
        Self { outbox: taken.await.unwrap(), end, thread }
    }

    async fn end(self) {
        let _ = self.end.send(());
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
    }
}

struct Writer {
    number: u64,
    door: Door,
    url: String,
    outbox: Outbox,
    rng: StdRng,
    stop: watch::Receiver<bool>,
    written: Vec<Plan>,
}

impl Writer {
    async fn write_on(mut self) -> Vec<Plan> {
        let mut client = self.connect().await;
        while !*self.stop.borrow() {
            let count = self.rng.random_range(1..=MOST_EVENTS);
            let plans: Vec<Plan> = (0..count).filter_map(|_| self.draw()).collect();
            match self.door {
                Door::Sql => self.insert(&mut client, plans).await,
                Door::Send => self.send(&mut client, plans).await,
                Door::Transaction => self.publish(&mut client, plans).await,
            }
            let pause = self.rng.random_range(20..200);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.written
    }

    fn draw(&mut self) -> Option<Plan> {
        let key = if self.rng.random_bool(0.3) {
            String::new()
        } else {
            format!("mixed {} key {}", self.number, self.rng.random_range(0..KEYS))
        };
        let plan = Plan::draw(&mut self.rng, key);
        (matches!(self.door, Door::Sql) || plan.is_valid()).then_some(plan)
    }

    async fn connect(&self) -> Client {
        loop {
            if let Ok((client, connection)) = tokio_postgres::connect(&self.url, NoTls).await {
                tokio::spawn(connection);
                return client;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn insert(&mut self, client: &mut Client, plans: Vec<Plan>) {
        let committed = match transaction(client, &plans).await {
            Ok(()) => true,
            Err(_) => self.has(client, &plans).await,
        };
        if committed {
            self.written.extend(plans);
        }
    }

    async fn send(&mut self, client: &mut Client, plans: Vec<Plan>) {
        for plan in plans {
            let committed = match self.outbox.send(event(&plan)).await {
                Ok(_) => true,
                Err(PublishError::Invalid(error)) => panic!("{}: {error}", plan.kind),
                // It may be stored, now or later: publishing it again under its id shows it.
                Err(_) => self.send_again(&plan).await || self.has(client, std::slice::from_ref(&plan)).await,
            };
            if committed {
                self.written.push(plan);
            }
        }
    }

    async fn send_again(&self, plan: &Plan) -> bool {
        loop {
            if self.outbox.send(event(plan)).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn publish(&mut self, client: &mut Client, plans: Vec<Plan>) {
        if plans.is_empty() {
            return;
        }
        let Ok(mut conn) = AsyncPgConnection::establish(&self.url).await else { return };
        let outbox = self.outbox.clone();
        let done = outbox
            .transaction(&mut conn, async |conn: &mut AsyncPgConnection| {
                for plan in &plans {
                    publish(conn, event(plan)).await?;
                }
                Ok(())
            })
            .await;
        // The server process ended with the connection.
        drop(conn);
        if done.is_ok() || self.has(client, &plans).await {
            self.written.extend(plans);
        }
    }

    /// Whether a transaction with unknown outcome has committed.
    async fn has(&self, client: &mut Client, plans: &[Plan]) -> bool {
        let Some(first) = plans.first() else { return false };
        *client = self.connect().await;
        loop {
            match client.query_one("SELECT count(*) FROM outbox_events WHERE id = $1", &[&first.id]).await {
                Ok(row) => return row.get::<_, i64>(0) == 1,
                Err(_) => *client = self.connect().await,
            }
        }
    }
}

fn event(plan: &Plan) -> NewEvent {
    NewEvent::new(plan.event_type, "faults")
        .id(plan.id)
        .subject(&plan.subject)
        .data_json(&plan.data)
        .partition_key(&plan.key)
        .backend(plan.lane)
        .max_retries(plan.max_retries)
        .scheduled_in(Duration::from_millis(plan.delay_millis.unsigned_abs().into()))
}

async fn transaction(client: &mut Client, plans: &[Plan]) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    for plan in plans {
        let Plan { id, event_type, subject, data, extensions, publisher_config, max_retries, key, lane, .. } = plan;
        let statement =
            "INSERT INTO outbox_events (id, event_type, source, subject, data, extensions, publisher_config,
                max_retries, partition_key, publisher_backend, scheduled_at)
            VALUES ($1, $2, 'faults', $3, $4::text::jsonb, $5::text::jsonb, $6::text::jsonb, $7, $8, $9,
                clock_timestamp() + $10 * interval '1 millisecond')";
        let delay = f64::from(plan.delay_millis);
        transaction
            .execute(
                statement,
                &[id, event_type, subject, data, extensions, publisher_config, max_retries, key, lane, &delay],
            )
            .await?;
    }
    transaction.commit().await
}
