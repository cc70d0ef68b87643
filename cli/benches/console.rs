//! The time of the console's pages with two million events in the table, the cost of an open page for a worker, and the cost
//! of the index that lists by status need.
//!
//! `scripts/console.sh` runs it. `OUTBOX_CONSOLE_EVENTS` sets another number of events, and only the pages are measured.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement has no better answer to an error than to fail"
)]

#[allow(dead_code, reason = "memory is not measured, and arrived events are not checked")]
mod drain;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use drain::support::free_port;
use drain::support::postgres::Database;
use drain::support::process::Running;
use drain::{Outbox, Servers};

const ROUNDS: usize = 20;
const WANTED: Duration = Duration::from_millis(100);
const DRAINS: usize = 5;
const DRAINED: i32 = 200_000;
const WANTED_SHARE: f64 = 0.95;

/// The page that is requested after a thousand others, each with the usual number of events.
const FAR: usize = 1_000;
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 200;

const PAGES: &[&str] = &[
    "/events",
    "/events?order=oldest",
    "/events?status=failed",
    "/events?status=pending",
    "/events?status=published",
    "/events?status=published&order=oldest",
    "/events?status=pending&order=oldest",
    "/events?status=retry",
    "/events?status=processing",
    "/events?type=type-3",
    "/events?type=nothing",
    "/events?source=/nowhere",
    "/events?search=order-77",
    "/events?key=customer-77",
    "/events?backend=nowhere&order=oldest",
    "/?range=day",
    "/?range=month",
    "/?range=hour&backend=default",
    "/?range=day&backend=rare",
    "/?range=month&backend=nowhere",
    "/consumers",
    "/audit",
];

const EVENTS: u32 = 2_000_000;

/// Published events, except a few that have failed, and a few that are scheduled for tomorrow.
fn filling(events: u32) -> String {
    let insert = "
    INSERT INTO outbox_events (id, event_type, source, subject, status, partition_key, data, created_at, scheduled_at, published_at)
        SELECT gen_random_uuid(), 'type-' || n % 20, '/shop/' || n % 5, 'order-' || n, 'published', 'customer-' || n % 5000,
            jsonb_build_object('n', n, 'x', repeat('x', 60)), t, t, t
        FROM generate_series(1, EVENTS) n, LATERAL (SELECT now() - (EVENTS - n) * interval '100 ms') AS s(t);
    UPDATE outbox_events SET status = 'failed', last_error = 'no' WHERE subject LIKE '%777';
    UPDATE outbox_events SET status = 'pending', scheduled_at = now() + interval '1 day' WHERE subject LIKE '%00555'";
    insert.replace("EVENTS", &events.to_string())
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let asked = std::env::var("OUTBOX_CONSOLE_EVENTS").ok().map(|events| events.parse().unwrap());
        let events = asked.unwrap_or(EVENTS);
        println!("{events} events; {ROUNDS} rounds");
        let servers = Servers::start(&[]);
        let outbox = servers.outbox().await;
        outbox.execute(&filling(events)).await;
        outbox.execute("VACUUM ANALYZE outbox_events").await;
        let console = Console::open(&outbox);
        print("/, for the first time", &[console.time("/")]);
        thread::sleep(Duration::from_secs(2));
        for path in [&["/"], PAGES].concat() {
            let took: Vec<Duration> = (0..ROUNDS).map(|_| console.time(path)).collect();
            print(path, &took);
        }
        let far = console.far();
        let took: Vec<Duration> = (0..ROUNDS).map(|_| console.time(&far)).collect();
        print(&format!("/events, page {FAR}"), &took);
        let some = outbox.number("SELECT count(*) FROM outbox_events WHERE status = 'failed'").await;
        assert!(some > 0);
        let id = one_failed(&outbox.database).await;
        let took: Vec<Duration> = (0..ROUNDS).map(|_| console.time(&format!("/events/{id}"))).collect();
        print("/events/ID", &took);
        drop(console);
        if asked.is_none() {
            share(&outbox).await;
            index(&servers.outbox().await).await;
        }
    });
}

/// The cost of the index by status, and of possible indexes by subject and by key, for a worker and for writers, by turns.
async fn index(outbox: &Outbox) {
    println!(
        "writing {DRAINED} events in one statement, and draining them, with and without an index; {DRAINS} rounds"
    );
    let without = pace(outbox, INDEXES[0].1).await;
    println!("(the first, of a cold server: {:.0} and {:.0} events/s)", without.0, without.1);
    let mut paces = vec![Vec::new(); INDEXES.len()];
    for _ in 0..DRAINS {
        for (paces, (_, statement)) in paces.iter_mut().zip(INDEXES) {
            paces.push(pace(outbox, statement).await);
        }
    }
    for ((name, _), with) in INDEXES.iter().zip(&paces) {
        let share = |of: fn(&(f64, f64)) -> f64| {
            let mut shares: Vec<f64> =
                with.iter().zip(&paces[0]).map(|(with, without)| of(with) / of(without)).collect();
            shares.sort_by(f64::total_cmp);
            shares[DRAINS / 2]
        };
        println!("{name}: written at {:.3} of the pace, drained at {:.3}", share(|pace| pace.0), share(|pace| pace.1));
    }
}

/// Indexes in addition to those that a worker needs.
const INDEXES: &[(&str, &str)] = &[
    ("none", ""),
    (
        "unpublished events by status and time (there by default)",
        "CREATE INDEX outbox_events_unpublished ON outbox_events (status, created_at) WHERE status <> 'published'",
    ),
    ("by subject", "CREATE INDEX by_subject ON outbox_events (subject) WHERE subject <> ''"),
    ("by key", "CREATE INDEX by_key ON outbox_events (partition_key, created_at) WHERE partition_key <> ''"),
];

/// Events written and drained, each in events a second.
async fn pace(outbox: &Outbox, index: &str) -> (f64, f64) {
    outbox.execute("DROP INDEX IF EXISTS outbox_events_unpublished, by_subject, by_key").await;
    outbox.execute("TRUNCATE outbox_events").await;
    outbox.execute(index).await;
    let began = Instant::now();
    outbox.write(DRAINED, 5_000).await;
    let written = began.elapsed();
    outbox.execute("VACUUM ANALYZE outbox_events").await;
    outbox.execute("CHECKPOINT").await;
    let drained = outbox.drain(&[]).await.whole;
    (f64::from(DRAINED) / written.as_secs_f64(), f64::from(DRAINED) / drained.as_secs_f64())
}

/// A worker's rate with an open page that refreshes, and without, by turns.
async fn share(outbox: &Outbox) {
    println!("draining {DRAINED} further events, with the overview open and without; {DRAINS} rounds");
    let mut shares = Vec::new();
    for round in 1..=DRAINS {
        let (open, closed) = if round % 2 == 0 {
            let open = rate(outbox, true).await;
            (open, rate(outbox, false).await)
        } else {
            let closed = rate(outbox, false).await;
            (rate(outbox, true).await, closed)
        };
        println!("round {round}: {closed:.0} events/s without, {open:.0} with: {:.3}", open / closed);
        shares.push(open / closed);
    }
    shares.sort_by(f64::total_cmp);
    let median = shares[DRAINS / 2];
    let verdict = if median >= WANTED_SHARE { "met" } else { "missed" };
    println!("median {median:.3} (wanted: {WANTED_SHARE} or more: {verdict})");
}

async fn rate(outbox: &Outbox, open: bool) -> f64 {
    outbox.insert(DRAINED, 0).await;
    let closed = Arc::new(AtomicBool::new(!open));
    let console = Console::open(outbox);
    let (asked, port) = (Arc::clone(&closed), console.port);
    // As the page does by itself.
    let page = thread::spawn(move || {
        while !asked.load(Ordering::Relaxed) {
            get(port, "/");
            thread::sleep(Duration::from_secs(2));
        }
    });
    // The page is open before the worker starts, and has counted once.
    thread::sleep(Duration::from_secs(2));
    let drain = outbox.drain(&[]).await;
    closed.store(true, Ordering::Relaxed);
    page.join().unwrap();
    f64::from(DRAINED) / drain.whole.as_secs_f64()
}

/// A running `outbox web`.
struct Console {
    _program: Running,
    port: u16,
}

impl Console {
    fn open(outbox: &Outbox) -> Self {
        let port = free_port();
        let program = Running::spawn(outbox.command().args([
            "web",
            "--http",
            &format!("127.0.0.1:{port}"),
            "--insecure-no-secret",
        ]));
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            thread::sleep(Duration::from_millis(10));
        }
        Self { _program: program, port }
    }

    fn time(&self, path: &str) -> Duration {
        let began = Instant::now();
        get(self.port, path);
        began.elapsed()
    }

    /// The address of a page far down the list.
    fn far(&self) -> String {
        let mut after = String::new();
        for _ in 0..FAR * PAGE / LARGEST_PAGE {
            let answer = get(self.port, &format!("/api/v1/events?limit={LARGEST_PAGE}{after}"));
            let page: serde_json::Value = serde_json::from_str(&answer).unwrap();
            after = format!("&after={}", page["next"].as_str().unwrap());
            // No faster than one address may.
            thread::sleep(Duration::from_millis(10));
        }
        format!("/events?{after}")
    }
}

fn get(port: u16, path: &str) -> String {
    let mut answer = ureq::get(format!("http://127.0.0.1:{port}{path}")).call().unwrap();
    answer.body_mut().read_to_string().unwrap()
}

async fn one_failed(database: &Database) -> String {
    let query = "SELECT id::text FROM outbox_events WHERE status = 'failed' LIMIT 1";
    database.connect().await.query_one(query, &[]).await.unwrap().get(0)
}

fn print(name: &str, took: &[Duration]) {
    let mut took = took.to_vec();
    took.sort_unstable();
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    let verdict = if longest < WANTED { "met" } else { "missed" };
    println!("{name}: median {median:.1?}, longest {longest:.1?} (wanted: {WANTED:?} or less: {verdict})");
}
