//! The cost of a phase of faults: connections, memory, row versions, and how long events wait.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use crate::deployment::ROLE;

const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// The most connections of one worker.
    pub(crate) connections: i64,
    /// The most memory of one worker, in bytes.
    pub(crate) memory: u64,
    /// Row versions written to own and release shards.
    pub(crate) ownership: u64,
    /// Row versions of events.
    pub(crate) events: u64,
    /// The highest age of the oldest due event.
    pub(crate) oldest_due: Duration,
    pub(crate) span: Duration,
}

impl Figures {
    pub(crate) fn ownership_per_minute(&self) -> f64 {
        self.ownership as f64 / self.span.as_secs_f64() * 60.0
    }

    pub(crate) fn versions_per_event(&self, events: usize) -> f64 {
        self.events as f64 / events.max(1) as f64
    }
}

/// The process ids of the workers that have been started.
pub(crate) type Processes = Arc<Mutex<Vec<u32>>>;

/// Measures until it is stopped.
pub(crate) struct Meter {
    stop: watch::Sender<bool>,
    began: Instant,
    figures: Arc<Mutex<Figures>>,
    measuring: Vec<JoinHandle<()>>,
}

impl Meter {
    pub(crate) fn start(url: &str, processes: Processes) -> Self {
        let stop = watch::Sender::new(false);
        let figures = Arc::<Mutex<Figures>>::default();
        let probe =
            || Probe { url: url.to_owned(), client: None, figures: Arc::clone(&figures), stop: stop.subscribe() };
        let measuring = vec![
            tokio::spawn(probe().measure_the_server()),
            tokio::spawn(probe().measure_the_oldest()),
            tokio::spawn(probe().measure_memory(processes)),
        ];
        Self { began: Instant::now(), figures, measuring, stop }
    }

    /// Measures only memory.
    pub(crate) fn of_processes(processes: Processes) -> Self {
        let stop = watch::Sender::new(false);
        let figures = Arc::<Mutex<Figures>>::default();
        let probe = Probe { url: String::new(), client: None, figures: Arc::clone(&figures), stop: stop.subscribe() };
        let measuring = vec![tokio::spawn(probe.measure_memory(processes))];
        Self { began: Instant::now(), figures, measuring, stop }
    }

    pub(crate) async fn finish(self) -> Figures {
        self.stop.send_replace(true);
        for measuring in self.measuring {
            measuring.await.unwrap();
        }
        let figures = self.figures.lock().unwrap().clone();
        Figures { span: self.began.elapsed(), ..figures }
    }
}

struct Probe {
    url: String,
    client: Option<Client>,
    figures: Arc<Mutex<Figures>>,
    stop: watch::Receiver<bool>,
}

impl Probe {
    async fn measure_the_server(mut self) {
        let (mut ownership, mut events) = (Counter::default(), Counter::default());
        while self.goes_on().await {
            let Some(row) = self.ask(&server_query()).await else { continue };
            let mut figures = self.figures.lock().unwrap();
            figures.connections = figures.connections.max(row.get(0));
            figures.ownership = ownership.add(row.get(1));
            figures.events = events.add(row.get(2));
        }
    }

    async fn measure_the_oldest(mut self) {
        while self.goes_on().await {
            let Some(row) = self.ask(OLDEST_DUE).await else { continue };
            let age = Duration::from_secs_f64(row.get::<_, f64>(0).max(0.0));
            let mut figures = self.figures.lock().unwrap();
            figures.oldest_due = figures.oldest_due.max(age);
        }
    }

    async fn measure_memory(mut self, processes: Processes) {
        while self.goes_on().await {
            processes.lock().unwrap().retain(|id| {
                let Some(memory) = most_memory(*id) else { return false };
                let mut figures = self.figures.lock().unwrap();
                figures.memory = figures.memory.max(memory);
                true
            });
        }
    }

    async fn goes_on(&mut self) -> bool {
        tokio::time::sleep(INTERVAL).await;
        !*self.stop.borrow()
    }

    /// One row, or none while the server or a table is unavailable. Waits for a frozen server, because abandoned connections
    /// would be counted.
    async fn ask(&mut self, query: &str) -> Option<tokio_postgres::Row> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = connect(&self.url).await;
        }
        self.client.as_ref()?.query_one(query, &[]).await.ok()
    }
}

async fn connect(url: &str) -> Option<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
    tokio::spawn(connection);
    client.batch_execute("SET lock_timeout = '200ms'; SET enable_seqscan = off").await.ok()?;
    Some(client)
}

/// Each worker's application name is its name.
fn server_query() -> String {
    format!(
        "SELECT (SELECT coalesce(max(n), 0) FROM (SELECT count(*) n FROM pg_stat_activity WHERE usename = '{ROLE}' \
                GROUP BY application_name) each), \
            coalesce(sum(n_tup_ins + n_tup_upd) FILTER (WHERE relname <> 'outbox_events'), 0)::bigint, \
            coalesce(sum(n_tup_ins + n_tup_upd) FILTER (WHERE relname = 'outbox_events'), 0)::bigint \
         FROM pg_stat_user_tables \
         WHERE relname IN ('outbox_events', 'outbox_leases', 'outbox_heartbeats', 'outbox_workers')"
    )
}

/// Events behind a failed event in `held` wait for an operator and do not count. A replay has been due since its request,
/// but its `scheduled_at` is the first publication's.
const OLDEST_DUE: &str = "SELECT coalesce(extract(epoch FROM clock_timestamp() - least(\
        (SELECT min(greatest(scheduled_at, updated_at)) FROM outbox_events WHERE status = 'pending' AND publisher_backend <> 'held'), \
        (SELECT min(retry_at) FROM outbox_events WHERE status = 'retry' AND publisher_backend <> 'held'))), 0)::float8";

fn most_memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A counter of the server, which restarts at zero after a crash.
#[derive(Default)]
struct Counter {
    last: i64,
    total: u64,
}

impl Counter {
    fn add(&mut self, now: i64) -> u64 {
        let more = if now >= self.last { now - self.last } else { now };
        self.total += more.unsigned_abs();
        self.last = now;
        self.total
    }
}

#[test]
fn a_counter_goes_on_when_the_server_begins_again() {
    let mut counter = Counter::default();
    let totals = [10, 15, 3, 4].map(|now| counter.add(now));
    assert_eq!(totals, [10, 15, 18, 19]);
}
