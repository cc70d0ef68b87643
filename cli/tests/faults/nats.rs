//! Faults with JetStream in Redis' place: three NATS servers that store the stream together, and three workers.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RawMessageErrorKind};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::task::block_in_place;
use uuid::Uuid;

use crate::deployment::{LEASE, PROGRAM, Pace};
use crate::fault_phase::{Faults, HEALING, Outcome};
use crate::figures::{Meter, Processes};
use crate::kinds::Kind;
use crate::limits::Limits;
use crate::reconcile::Reconciliation;
use crate::sqlite::{draw, pass};
use crate::support::nats::Cluster;
use crate::support::postgres::{self, Database};
use crate::support::process::{Running, Signal};
use crate::support::proxy::{Passage, Proxy};
use crate::support::{PATIENCE, unique};
use crate::writers::Committed;

/// The kinds that concern workers, their connections to NATS, and NATS itself.
pub(crate) const KINDS: [Kind; 12] = [
    Kind::Kill,
    Kind::Terminate,
    Kind::Stop,
    Kind::Cut,
    Kind::LostReply,
    Kind::Stall,
    Kind::Delay,
    Kind::Late,
    Kind::NatsRestart,
    Kind::LeaderMoved,
    Kind::StreamFull,
    Kind::RightTaken,
];

/// Servers, and workers: each worker knows one server, through a proxy, and learns no others.
const NODES: usize = 3;
const WRITERS: u64 = 3;
const MOST_EVENTS: usize = 8;

const ALL_RIGHTS: &str = r#"authorization { users: [ { user: app, password: right,
    permissions: { publish: [">"], subscribe: [">"] } } ] }"#;
const NO_RIGHT_TO_PUBLISH: &str = r#"authorization { users: [ { user: app, password: right,
    permissions: { publish: ["$JS.API.>"], subscribe: ["_INBOX.>"] } } ] }"#;

struct Outbox {
    folder: TempDir,
    database: Database,
    cluster: Cluster,
    ways: Vec<Proxy>,
    workers: Vec<Running>,
    processes: Processes,
    logs: String,
    deaths: Vec<String>,
}

/// How long a phase lasts.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Rounds(u32),
    Elapsed(Duration),
}

/// Runs faults of these kinds, one after the other.
pub(crate) async fn run(seed: u64, kinds: &[Kind], until: Until) -> Outcome {
    let mut outbox = Outbox::new().await;
    let meter = Meter::of_processes(Arc::clone(&outbox.processes));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writing: Vec<_> = (0..WRITERS)
        .map(|number| {
            let rng = StdRng::seed_from_u64(seed ^ (number + 1) << 32);
            tokio::spawn(write_until(stopped.clone(), outbox.database.url.clone(), number, rng))
        })
        .collect();
    let faults = outbox.break_for(kinds, until, StdRng::seed_from_u64(seed)).await;
    stop.send_replace(true);
    let mut committed = Vec::new();
    for writer in writing {
        committed.push(tokio::time::timeout(PATIENCE, writer).await.expect("a writer ends").unwrap());
    }
    let stuck = outbox.drain().await;
    let retries = outbox.number("SELECT coalesce(sum(retry_count), 0) FROM outbox_events").await;
    let (stream, journals) = outbox.stream().await;
    let (reconciliation, figures) = (Reconciliation::of(&committed, &stream), meter.finish().await);
    let limits = Limits::of(kinds, Pace::Short, true, faults.values().sum(), figures.span);
    let excesses = limits.excesses(&figures, reconciliation.committed);
    let findings = (journals > 64).then(|| format!("{journals} journals of 64 shards are in the stream"));
    outbox.end_workers().await;
    let Outbox { deaths, logs, .. } = outbox;
    let name = if let [kind] = kinds { format!("JetStream, {kind}") } else { "JetStream".to_owned() };
    let outcome = Outcome {
        name,
        faults,
        reconciliation,
        stuck,
        retries,
        takeovers: Vec::new(),
        deaths,
        told: Vec::new(),
        findings: findings.into_iter().collect(),
        figures,
        excesses,
    };
    outcome.keep_unless_good(seed, || logs);
    outcome
}

impl Outbox {
    async fn new() -> Self {
        let cluster = block_in_place(|| Cluster::with(NODES, ALL_RIGHTS));
        create_stream(&cluster).await;
        let mut ways = Vec::new();
        for number in 0..NODES {
            ways.push(Proxy::to(cluster.port(number)).await);
        }
        let mut outbox = Self {
            folder: tempfile::tempdir().unwrap(),
            database: postgres::database().await,
            cluster,
            ways,
            workers: Vec::new(),
            processes: Processes::default(),
            logs: String::new(),
            deaths: Vec::new(),
        };
        for number in 0..NODES {
            std::fs::write(outbox.settings(number), outbox.text(number)).unwrap();
        }
        let migrated = outbox.command(&["migrate"], 0).output().unwrap();
        assert!(migrated.status.success(), "outbox migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        outbox.workers = (0..NODES).map(|number| outbox.worker(number)).collect();
        outbox
    }

    fn settings(&self, number: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("{number}.toml"))
    }

    fn text(&self, number: usize) -> String {
        format!(
            "[database]\nurl = \"{}\"\n[publishers.default]\nbackend = \"nats\"\nurl = \"nats://app:right@127.0.0.1:{}\"\n\
             connect_timeout = 1\nsocket_timeout = 1\n[worker]\nlease = \"{}s\"\npoll_interval = \"20ms\"\nbatch_size = 50\n",
            self.database.url,
            self.ways[number].port(),
            LEASE.as_secs(),
        )
    }

    fn command(&self, arguments: &[&str], number: usize) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env_remove("DATABASE_URL").args(arguments).arg("--config").arg(self.settings(number));
        command
    }

    fn worker(&self, number: usize) -> Running {
        let worker = Running::spawn(&mut self.command(&["worker", "--name", &unique("worker")], number));
        self.processes.lock().unwrap().push(worker.id());
        worker
    }

    async fn break_for(&mut self, kinds: &[Kind], until: Until, mut rng: StdRng) -> Faults {
        let (began, mut faults): (_, Faults) = (Instant::now(), BTreeMap::new());
        let mut count = 0;
        loop {
            let is_over = match until {
                Until::Rounds(rounds) => count >= rounds,
                Until::Elapsed(span) => began.elapsed() >= span,
            };
            if is_over {
                return faults;
            }
            pass(&mut rng, 0, 1_500).await;
            let kind = *kinds.choose(&mut rng).unwrap();
            self.inflict(kind, &mut rng).await;
            *faults.entry(kind).or_default() += 1;
            count += 1;
        }
    }

    async fn inflict(&mut self, kind: Kind, rng: &mut StdRng) {
        let chosen = rng.random_range(0..NODES);
        let lease = LEASE.as_millis() as u64;
        match kind {
            Kind::Kill => self.replace(chosen, Signal::KILL, rng).await,
            Kind::Terminate => self.replace(chosen, Signal::TERM, rng).await,
            Kind::Stop => {
                self.workers[chosen].signal(Signal::STOP);
                pass(rng, lease + 100, lease + 2_500).await;
                self.workers[chosen].signal(Signal::CONT);
            }
            Kind::Cut => {
                let share = rng.random();
                let passage = if rng.random() { Passage::CutInRequest(share) } else { Passage::CutInReply(share) };
                self.set_for_a_while(chosen, passage, rng, 500).await;
            }
            Kind::LostReply => {
                let passage = if rng.random() { Passage::LoseReplies } else { Passage::CutAtReply };
                self.set_for_a_while(chosen, passage, rng, 2_000).await;
            }
            Kind::Stall => {
                let passage = if rng.random() { Passage::HoldRequests } else { Passage::HoldReplies };
                self.set_for_a_while(chosen, passage, rng, 5_000).await;
            }
            Kind::Delay => {
                let most = Duration::from_millis(rng.random_range(10..300));
                self.set_for_a_while(chosen, Passage::Delay(most), rng, 4_000).await;
            }
            Kind::Late => self.deliver_late_what_a_dead_worker_sent(chosen, rng).await,
            Kind::NatsRestart => {
                block_in_place(|| self.cluster.kill(chosen));
                pass(rng, 0, 2_500).await;
                block_in_place(|| self.cluster.start_again(chosen));
            }
            Kind::LeaderMoved => {
                // Without a leader there is none to move.
                let _ = self.api().await.request::<_, _, serde_json::Value>("STREAM.LEADER.STEPDOWN.EVENTS", &()).await;
            }
            Kind::StreamFull => {
                self.limit_messages(1).await;
                pass(rng, 200, 3_000).await;
                self.limit_messages(-1).await;
            }
            Kind::RightTaken => {
                self.cluster.configure(NO_RIGHT_TO_PUBLISH);
                pass(rng, 500, 3_000).await;
                self.cluster.configure(ALL_RIGHTS);
            }
            other => unreachable!("{other} is not of JetStream"),
        }
    }

    async fn set_for_a_while(&self, chosen: usize, passage: Passage, rng: &mut StdRng, most: u64) {
        self.ways[chosen].set(passage);
        pass(rng, 50, most).await;
        self.ways[chosen].set(Passage::Open);
    }

    async fn deliver_late_what_a_dead_worker_sent(&mut self, chosen: usize, rng: &mut StdRng) {
        self.ways[chosen].set(Passage::HoldRequests);
        pass(rng, 50, 800).await;
        self.workers[chosen].signal(Signal::KILL);
        let lease = LEASE.as_millis() as u64;
        pass(rng, lease / 2, lease + 2_000).await;
        self.ways[chosen].set(Passage::Open);
        self.replace(chosen, Signal::KILL, rng).await;
    }

    async fn replace(&mut self, chosen: usize, signal: Signal, rng: &mut StdRng) {
        let next = self.worker(chosen);
        let mut worker = std::mem::replace(&mut self.workers[chosen], next);
        worker.signal(signal);
        worker.wait_exit(PATIENCE).await;
        self.logs += &format!("=== a worker\n{}\n", worker.stderr());
        pass(rng, 0, 2_000).await;
    }

    async fn end_workers(&mut self) {
        for mut worker in std::mem::take(&mut self.workers) {
            if !worker.is_running() {
                self.deaths.push(worker.stderr().lines().last().unwrap_or_default().to_owned());
            }
            worker.signal(Signal::TERM);
            worker.wait_exit(PATIENCE).await;
            self.logs += &format!("=== a worker\n{}\n", worker.stderr());
        }
    }

    async fn api(&self) -> jetstream::Context {
        api(&self.cluster).await
    }

    /// Makes the stream refuse what is beyond this number of messages; -1: nothing.
    async fn limit_messages(&self, most: i64) {
        retry("the stream is changed", async || {
            let config = Config { max_messages: most, discard: DiscardPolicy::New, ..config() };
            self.api().await.update_stream(config).await.map(drop)
        })
        .await;
    }

    async fn number(&self, query: &str) -> i64 {
        self.database.connect().await.query_one(query, &[]).await.unwrap().get(0)
    }

    async fn drain(&self) -> i64 {
        let began = Instant::now();
        loop {
            let left = self.number("SELECT count(*) FROM outbox_events WHERE status <> 'published'").await;
            if left == 0 || began.elapsed() > HEALING {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The events in the stream, in its order, and the number of journals between them.
    async fn stream(&self) -> (Vec<Uuid>, usize) {
        let stream = self.api().await.get_stream("EVENTS").await.unwrap();
        let state = stream.cached_info().state.clone();
        let (mut ids, mut journals) = (Vec::new(), 0);
        for sequence in state.first_sequence..=state.last_sequence {
            match stream.get_raw_message(sequence).await {
                Ok(message) if message.subject.starts_with("events.") => {
                    let event: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
                    ids.push(event["id"].as_str().unwrap().parse().unwrap());
                }
                Ok(_) => journals += 1,
                // A journal that was replaced.
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
                Err(error) => panic!("{error}"),
            }
        }
        (ids, journals)
    }
}

/// A window too short to hide an event that is sent twice.
fn config() -> Config {
    Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.>".to_owned(), "_outbox.EVENTS.>".to_owned()],
        num_replicas: NODES,
        allow_rollup: true,
        allow_atomic_publish: true,
        discard: DiscardPolicy::New,
        duplicate_window: Duration::from_millis(100),
        ..Config::default()
    }
}

async fn api(cluster: &Cluster) -> jetstream::Context {
    let servers: Vec<String> = (0..NODES).map(|number| cluster.url(number)).collect();
    let began = Instant::now();
    loop {
        let options = async_nats::ConnectOptions::new().user_and_password("app".to_owned(), "right".to_owned());
        match options.connect(&servers).await {
            Ok(client) => return jetstream::new(client),
            // A server that reads its configuration again knows no user for a moment.
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
    }
}

async fn create_stream(cluster: &Cluster) {
    retry("the stream is created", async || api(cluster).await.create_stream(config()).await.map(drop)).await;
}

async fn retry<E: std::fmt::Display>(what: &str, call: impl AsyncFn() -> Result<(), E>) {
    let began = Instant::now();
    while let Err(error) = call().await {
        assert!(began.elapsed() < PATIENCE, "not yet: {what}: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The committed events, in order.
async fn write_until(
    stopped: tokio::sync::watch::Receiver<bool>,
    url: String,
    number: u64,
    mut rng: StdRng,
) -> Vec<Committed> {
    use diesel_async::{AsyncConnection, AsyncPgConnection};

    let mut connection = AsyncPgConnection::establish(&url).await.unwrap();
    let mut committed = Vec::new();
    while !*stopped.borrow() {
        let events: Vec<Committed> = (0..rng.random_range(1..=MOST_EVENTS)).map(|_| draw(&mut rng, number)).collect();
        let new: Vec<_> = events
            .iter()
            .map(|Committed { id, key }| {
                actix_outbox::NewEvent::new("thing.happened", "faults").id(*id).partition_key(key)
            })
            .collect();
        actix_outbox::publish_many(&mut connection, new).await.unwrap();
        committed.extend(events);
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..60))).await;
    }
    committed
}
