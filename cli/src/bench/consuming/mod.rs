//! How fast a consumer reads a stream, next to reading alone, and with a note in the inbox for each event.

mod handlers;

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::Actor;
use actix_outbox::bench_api::MEASURED_GROUP;
use actix_outbox::{
    ConsumerSettings, HandleEvent, OutboxConsumer, PublisherSettings, Settings, Subscribe, SystemError, inbox,
};
use anyhow::{Context, ensure};
use diesel_async::{AsyncConnection, RunQueryDsl};
use tokio::sync::oneshot;

use self::handlers::{NoOp, Noting};
use super::env::PUBLISHERS;
use super::schema::RawConnection;
use super::{Bench, alternate};

/// The consumer in the settings of a measurement, and its group.
const NAME: &str = MEASURED_GROUP;

/// Events in one transaction with notes.
const BATCH: usize = 500;

const CHECK_INTERVAL: Duration = Duration::from_millis(2);

/// How long a consumer may acknowledge nothing.
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Run {
    Read,
    Handle,
    HandleKeys,
    Insert,
    Note,
}

const RUNS: [(Run, &str); 5] = [
    (Run::Read, "consume.read"),
    (Run::Handle, "consume"),
    (Run::HandleKeys, "consume.keys"),
    (Run::Insert, "inbox.insert"),
    (Run::Note, "consume.inbox"),
];

pub(super) fn steps(rounds: u32) -> u64 {
    u64::from(rounds) * RUNS.len() as u64
}

pub(super) async fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    inbox::migrate(&mut bench.env.schema.connection().await?.0).await?;
    for round in 0..bench.rounds {
        for (run, figure) in alternate(&RUNS, round) {
            bench.step("consuming");
            let rate = measure_once(bench, run).await?;
            bench.samples.record(figure, rate);
        }
    }
    Ok(())
}

async fn measure_once(bench: &mut Bench, run: Run) -> anyhow::Result<f64> {
    let events = bench.events;
    if let Run::Insert = run {
        return insert(empty_inbox(bench).await?, events).await;
    }
    bench.env.clear_streams().await?;
    let keys = if let Run::HandleKeys = run { 1_000 } else { 0 };
    let mut stream = bench.env.reader(PUBLISHERS[0]).await?;
    stream.fill(events, keys).await?;
    let started = Instant::now();
    match run {
        Run::Read => stream.read_in_group(events).await?,
        Run::Note => {
            let raw = empty_inbox(bench).await?;
            // Events arrive while others are noted.
            let consumer = Consumer::start(bench.env.settings(&PUBLISHERS[..1]), 2 * BATCH, move || {
                Noting::new(raw.0, BATCH).start().recipient()
            });
            return consumer.await?.measure(events).await;
        }
        _ => {
            let settings = bench.env.settings(&PUBLISHERS[..1]);
            return Consumer::start(settings, 64, || NoOp.start().recipient()).await?.measure(events).await;
        }
    }
    Ok(f64::from(events) / started.elapsed().as_secs_f64())
}

async fn empty_inbox(bench: &Bench) -> anyhow::Result<RawConnection> {
    let mut raw = bench.env.schema.connection().await?;
    diesel::sql_query("TRUNCATE outbox_inbox").execute(&mut raw.0).await?;
    Ok(raw)
}

/// Inserts as many notes as there are events, a batch in each transaction, without an event. Returns events a second.
async fn insert(mut raw: RawConnection, events: u32) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut first = 0_i64;
    while first < i64::from(events) {
        let last = (first + i64::try_from(BATCH)?).min(events.into());
        let statement = "INSERT INTO outbox_inbox (consumer, source, event_id, seq)
            SELECT 'measured', 's', gen_random_uuid()::text, n FROM generate_series($1, $2) n";
        raw.0
            .transaction::<_, diesel::result::Error, _>(async |conn| {
                let bound = diesel::sql_query(statement).bind::<diesel::sql_types::BigInt, _>(first);
                bound.bind::<diesel::sql_types::BigInt, _>(last - 1).execute(conn).await
            })
            .await?;
        first = last;
    }
    Ok(f64::from(events) / started.elapsed().as_secs_f64())
}

/// A running consumer on its own thread; shut down when dropped.
struct Consumer {
    consumer: OutboxConsumer,
    began: Instant,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Consumer {
    async fn start(
        mut settings: Settings,
        concurrency: usize,
        handler: impl FnOnce() -> actix::Recipient<HandleEvent> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let mut consumer = ConsumerSettings::default();
        (consumer.source, consumer.concurrency) = (Some(PUBLISHERS[0].to_owned()), concurrency);
        settings.consumers = BTreeMap::from([(NAME.to_owned(), consumer)]);
        let only = |publisher: &mut PublisherSettings| publisher.partitions = 1;
        settings.publishers.values_mut().for_each(only);
        let (report, started) = oneshot::channel::<Result<OutboxConsumer, SystemError>>();
        let (stop, stopped) = oneshot::channel::<()>();
        let began = Instant::now();
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async {
                let builder = OutboxConsumer::builder(settings, NAME);
                let started = builder.subscribe_with(|| Subscribe::new(NAME, "*", handler())).start().await;
                let running = started.as_ref().ok().cloned();
                // If the caller was interrupted, the sender of `stopped` is dropped.
                drop(report.send(started));
                if let Some(consumer) = running {
                    drop(stopped.await);
                    drop(consumer.shutdown().await);
                }
            });
        });
        let consumer = started.await.context("the thread of a consumer ended")?;
        Ok(Self { consumer: consumer?, began, stop: Some(stop), thread: Some(thread) })
    }

    /// Waits until everything is acknowledged. Returns events a second.
    async fn measure(self, events: u32) -> anyhow::Result<f64> {
        let (mut acknowledged, mut progressed) = (0, Instant::now());
        while acknowledged < u64::from(events) {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let now = self.consumer.acknowledged();
            if now > acknowledged {
                (acknowledged, progressed) = (now, Instant::now());
            }
            ensure!(progressed.elapsed() < PROGRESS_LIMIT, "the consumer stopped at {acknowledged} of {events} events");
        }
        Ok(f64::from(events) / self.began.elapsed().as_secs_f64())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        drop(self.stop.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}
