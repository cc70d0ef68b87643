use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::settings::partitions::partition_name;
use crate::test_support::proxy::{Passage, Proxy};

const PARTITIONS: i64 = 16;
const KEYS: i64 = 48;

/// The shortest that the settings allow.
const LEASE: Duration = Duration::from_secs(1);

/// Keys by partition, as a publisher would write them.
struct Partitioned {
    stream: Stream,
    added: AtomicI64,
}

impl Partitioned {
    async fn new() -> Self {
        Self { stream: Stream::new().await, added: AtomicI64::new(0) }
    }

    fn names(&self) -> Vec<String> {
        (0..PARTITIONS as u32).map(|n| partition_name(&self.stream.name, n)).collect()
    }

    fn builder(&self, member: &str, url: &str, change: impl FnOnce(&mut ConsumerSettings)) -> ConsumerBuilder {
        self.stream.builder(member, |settings| {
            (settings.url, settings.streams) = (Some(Secret::from(url.to_owned())), self.names());
            settings.lease = LEASE;
            settings.socket_timeout = Duration::from_millis(500);
            change(settings);
        })
    }

    async fn start(&self, member: &str, handler: Subscribe) -> OutboxConsumer {
        self.builder(member, &self.stream.url, |_| {}).subscribe(handler).start().await.unwrap()
    }

    /// Adds this many events, of all keys in turn.
    async fn add(&self, count: i64) {
        let mut batch = ::redis::pipe();
        for _ in 0..count {
            let seq = self.added.fetch_add(1, Ordering::Relaxed);
            let event = fixtures::event(seq, &format!("key{}", seq % KEYS));
            let command =
                batch.cmd("XADD").arg(partition_name(&self.stream.name, (seq % KEYS % PARTITIONS) as u32)).arg("*");
            let fields = entry_fields(&event).unwrap().fields;
            fields.iter().for_each(|(name, value)| _ = command.arg(name.as_ref()).arg(value.as_ref()));
        }
        let _: ::redis::Value = batch.query_async(&mut self.stream.connection.clone()).await.unwrap();
    }

    async fn pending(&self) -> usize {
        let mut count = 0;
        for name in self.names() {
            let (pending, ..): (usize, ::redis::Value, ::redis::Value, ::redis::Value) = ::redis::cmd("XPENDING")
                .arg(name)
                .arg("mailer")
                .query_async(&mut self.stream.connection.clone())
                .await
                .unwrap();
            count += pending;
        }
        count
    }

    /// Adds events until this is so.
    async fn add_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        eventually(what, PATIENCE, async || {
            self.add(KEYS).await;
            is_so()
        })
        .await;
    }
}

/// What all handlers were given, and whether two had one key at a time.
#[derive(Clone, Default)]
struct Watched {
    given: Arc<Mutex<HashMap<String, Vec<i64>>>>,
    busy: Arc<Mutex<BTreeSet<String>>>,
    together: Arc<Mutex<Vec<String>>>,
}

impl Watched {
    fn handler(&self) -> Subscribe {
        let watched = self.clone();
        Notes::default().worker(move |event| {
            let watched = watched.clone();
            Box::pin(async move {
                let key = event.partition_key.clone();
                if !watched.busy.lock().unwrap().insert(key.clone()) {
                    watched.together.lock().unwrap().push(key.clone());
                }
                watched.given.lock().unwrap().entry(key.clone()).or_default().push(event.seq);
                tokio::time::sleep(Duration::from_millis(1)).await;
                watched.busy.lock().unwrap().remove(&key);
                Ok(())
            })
        })
    }

    fn distinct(&self) -> usize {
        let given = self.given.lock().unwrap();
        given.values().map(|given| given.iter().collect::<BTreeSet<_>>().len()).sum()
    }

    /// Checks each key's events: all of them, in order, repetitions left out. Returns how many were repeated.
    fn assert_in_order(&self, added: i64) -> usize {
        assert!(self.together.lock().unwrap().is_empty(), "two at a time: {:?}", self.together);
        let mut repeated = 0;
        for key in 0..KEYS {
            let given = self.given.lock().unwrap()[&format!("key{key}")].clone();
            let mut seen = BTreeSet::new();
            let first: Vec<i64> = given.iter().copied().filter(|seq| seen.insert(*seq)).collect();
            assert_eq!(first, (key..added).step_by(KEYS as usize).collect::<Vec<_>>());
            repeated += given.len() - first.len();
        }
        repeated
    }
}

fn held(consumer: &OutboxConsumer) -> usize {
    consumer.health().partitions.len()
}

#[actix::test]
async fn the_events_of_a_key_stay_in_order_while_consumers_join_leave_and_are_cut_off() {
    let parts = Partitioned::new().await;
    let watched = Watched::default();
    let proxy = Proxy::to(url::Url::parse(&parts.stream.url).unwrap().port().unwrap_or(6379)).await;
    let behind = format!("redis://127.0.0.1:{}/0", proxy.port());

    let first = parts.start("first", watched.handler()).await;
    parts.add_until("one has all", || held(&first) == 16).await;
    let cut = parts.builder("cut", &behind, |_| {}).subscribe(watched.handler()).start().await.unwrap();
    parts.add_until("two share", || held(&first) == 8 && held(&cut) == 8).await;
    let third = parts.start("third", watched.handler()).await;
    parts.add_until("three share", || [&first, &cut, &third].into_iter().all(|one| (4..=6).contains(&held(one)))).await;

    first.shutdown().await.unwrap();
    parts.add_until("the others have all", || held(&cut) == 8 && held(&third) == 8).await;

    proxy.set(Passage::HoldRequests);
    parts.add_until("one has all after a lease", || held(&third) == 16).await;
    assert_eq!(held(&cut), 0);
    // Now come its late reads and beats.
    proxy.set(Passage::Open);
    parts.add_until("it comes back", || held(&cut) == 8 && held(&third) == 8).await;

    let added = parts.added.load(Ordering::Relaxed);
    eventually("all are handled", PATIENCE, async || watched.distinct() as i64 == added).await;
    eventually("all are acknowledged", PATIENCE, async || parts.pending().await == 0).await;
    watched.assert_in_order(added);
    third.shutdown().await.unwrap();
    cut.shutdown().await.unwrap();
}

#[actix::test]
async fn events_that_are_handed_over_before_they_began_are_not_counted() {
    let parts = Partitioned::new().await;
    let (slow, other) = (Notes::default(), Notes::default());
    let may_end = Arc::new(Semaphore::new(0));
    let builder = parts.builder("first", &parts.stream.url, |settings| {
        (settings.concurrency, settings.max_deliveries) = (1, 1);
        settings.max_bytes = 1 << 20;
    });
    let first = builder.subscribe(slow.waiter(&may_end, || Ok(()))).start().await.unwrap();
    eventually("it has all partitions", PATIENCE, async || held(&first) == 16).await;
    parts.add(KEYS).await;
    eventually("one is handled and others wait", PATIENCE, async || first.health().in_flight > 1).await;
    let builder = parts.builder("second", &parts.stream.url, |settings| settings.max_deliveries = 1);
    let second = builder.subscribe(other.handler(|_| Ok(()))).start().await.unwrap();
    eventually("the other one has its share", PATIENCE, async || held(&second) >= 7).await;
    may_end.add_permits(1_000);
    let count = || slow.all().len() + other.all().len();
    eventually("all are handled", PATIENCE, async || count() == KEYS as usize && parts.pending().await == 0).await;
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[actix::test]
async fn a_partition_whose_event_waits_for_a_retry_is_handed_over() {
    let parts = Partitioned::new().await;
    let (first_notes, second_notes) = (Notes::default(), Notes::default());
    let rejects = first_notes.handler(|_| Err(HandlerError::after(Duration::from_secs(3_600), "later")));
    let first = parts.start("first", rejects).await;
    eventually("it has all partitions", PATIENCE, async || held(&first) == 16).await;
    parts.add(PARTITIONS).await;
    eventually("all are rejected", PATIENCE, async || first_notes.all().len() == 16).await;
    let second = parts.start("second", second_notes.handler(|_| Ok(()))).await;
    eventually("the other one handles its share", PATIENCE, async || second_notes.all().len() == 8).await;
    first.shutdown().await.unwrap();
    eventually("the rest is left to it", PATIENCE, async || second_notes.all().len() == 16).await;
    second.shutdown().await.unwrap();
}

#[actix::test]
async fn a_partition_whose_dead_letters_are_refused_is_handed_over() {
    let parts = Partitioned::new().await;
    let mut refusing = ::redis::pipe();
    for name in parts.names() {
        refusing.cmd("SET").arg(format!("{name}:dead:mailer")).arg("another type");
    }
    let _: ::redis::Value = refusing.query_async(&mut parts.stream.connection.clone()).await.unwrap();
    let (first_notes, second_notes) = (Notes::default(), Notes::default());
    let first = parts.start("first", first_notes.handler(|_| Err(HandlerError::permanent("no")))).await;
    eventually("it has all partitions", PATIENCE, async || held(&first) == 16).await;
    parts.add(PARTITIONS).await;
    eventually("all are rejected", PATIENCE, async || first_notes.all().len() == 16).await;
    let second = parts.start("second", second_notes.handler(|_| Ok(()))).await;
    eventually("the other one handles its share", PATIENCE, async || second_notes.all().len() == 8).await;
    first.shutdown().await.unwrap();
    eventually("the rest is left to it", PATIENCE, async || second_notes.all().len() == 16).await;
    second.shutdown().await.unwrap();
}

/// Scripts that would write something are refused then, unless they begin with a deletion.
#[actix::test]
async fn a_server_without_memory_ends_no_lease_and_keeps_no_consumer_from_joining() {
    let server = Server::start(&[]);
    let parts = Partitioned { stream: Stream::on(server.url()).await, added: AtomicI64::new(0) };
    let (notes, may_end) = (Notes::default(), Arc::new(Semaphore::new(0)));
    let first = parts.start("first", notes.waiter(&may_end, || Ok(()))).await;
    eventually("it has all partitions", PATIENCE, async || held(&first) == 16).await;
    parts.add(KEYS).await;
    eventually("some are being handled", PATIENCE, async || !notes.all().is_empty()).await;
    let full = ["SET", "maxmemory", "1"];
    let _: () = ::redis::cmd("CONFIG").arg(&full).query_async(&mut parts.stream.connection.clone()).await.unwrap();
    tokio::time::sleep(3 * LEASE).await;
    assert_eq!(held(&first), 16);
    may_end.add_permits(1_000);
    eventually("all are handled", PATIENCE, async || notes.all().len() == KEYS as usize).await;
    let second = parts.start("second", Notes::default().handler(|_| Ok(()))).await;
    eventually("it has its share", PATIENCE, async || held(&second) == 8).await;
    eventually("it reads", PATIENCE, async || second.health().is_ok()).await;
    assert_eq!(parts.pending().await, 0);
    for consumer in [first, second] {
        consumer.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn partitions_are_handed_over_while_another_ones_handler_still_runs() {
    let parts = Partitioned::new().await;
    let (slow, other) = (Notes::default(), Notes::default());
    let may_end = Arc::new(Semaphore::new(0));
    let first = parts.start("first", slow.waiter(&may_end, || Ok(()))).await;
    eventually("it has all partitions", PATIENCE, async || held(&first) == 16).await;
    parts.add(1).await;
    slow.are(&[0]).await;
    let second = parts.start("second", other.handler(|_| Ok(()))).await;
    let leaving = first.clone();
    let ending = actix::spawn(async move { leaving.shutdown().await });
    eventually("the other one has the rest", PATIENCE, async || held(&second) == 15).await;
    may_end.add_permits(1);
    ending.await.unwrap().unwrap();
    eventually("it has all", PATIENCE, async || held(&second) == 16).await;
    assert_eq!(parts.pending().await, 0);
    second.shutdown().await.unwrap();
}

#[actix::test]
async fn a_partition_whose_key_is_replaced_holds_up_no_other_partition() {
    let parts = Partitioned::new().await;
    let notes = Notes::default();
    let consumer = parts.start("one", notes.handler(|_| Ok(()))).await;
    eventually("it has all partitions", PATIENCE, async || held(&consumer) == 16).await;
    parts.add(KEYS).await;
    eventually("all are handled", PATIENCE, async || notes.all().len() == KEYS as usize).await;
    let mut connection = parts.stream.connection.clone();
    let broken = &parts.names()[0];
    let _: () = ::redis::cmd("SET").arg(&[broken, "another type"]).query_async(&mut connection).await.unwrap();
    for n in 1..16 {
        let event = fixtures::event(1_000 + n, "k");
        let mut add = ::redis::cmd("XADD");
        add.arg(&parts.names()[n as usize]).arg("*");
        let fields = entry_fields(&event).unwrap().fields;
        fields.iter().for_each(|(name, value)| _ = add.arg(name.as_ref()).arg(value.as_ref()));
        let _: String = add.query_async(&mut connection).await.unwrap();
    }
    eventually("the others are handled", PATIENCE, async || (1..16).all(|n| notes.count(1_000 + n) == 1)).await;
    eventually("it is named", PATIENCE, async || {
        consumer.health().source.is_err_and(|problem| problem.contains(broken))
    })
    .await;
    consumer.update_gauges().await.unwrap();
    let _: usize = ::redis::cmd("DEL").arg(broken).query_async(&mut connection).await.unwrap();
    eventually("it is read again", PATIENCE, async || {
        parts.add(KEYS).await;
        consumer.health().is_ok()
    })
    .await;
    let count = parts.added.load(Ordering::Relaxed) as usize + 15;
    eventually("all are handled", PATIENCE, async || notes.all().len() >= count).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn shared_streams_and_partitions_are_read_side_by_side() {
    let mut parts = Partitioned::new().await;
    let notes = Notes::default();
    let shared = parts.stream.name.clone();
    let builder = parts.builder("one", &parts.stream.url, |settings| settings.streams.push(shared));
    let consumer = builder.subscribe(notes.handler(|_| Ok(()))).start().await.unwrap();
    eventually("it has all partitions", PATIENCE, async || held(&consumer) == 16).await;
    parts.add(KEYS).await;
    parts.stream.add(100..200, "k").await;
    eventually("all are handled", PATIENCE, async || notes.all().len() == 148).await;
    consumer.shutdown().await.unwrap();
}

#[actix::test]
async fn a_waiting_consumer_is_woken_by_an_event_and_asks_for_little_meanwhile() {
    let server = Server::start(&[]);
    let parts = Partitioned { stream: Stream::on(server.url()).await, added: AtomicI64::new(0) };
    let notes = Notes::default();
    let consumer = parts.start("one", notes.handler(|_| Ok(()))).await;
    eventually("it has all partitions", PATIENCE, async || held(&consumer) == 16).await;
    let started = std::time::Instant::now();
    for count in 1..=20 {
        parts.add(1).await;
        eventually("it is handled", PATIENCE, async || notes.all().len() == count).await;
    }
    assert!(started.elapsed() < Duration::from_secs(4), "a read that is not woken waits up to a second each time");
    eventually("all are acknowledged", PATIENCE, async || parts.pending().await == 0).await;
    let calls = async |command: &str| {
        let info: String =
            ::redis::cmd("INFO").arg("commandstats").query_async(&mut parts.stream.connection.clone()).await.unwrap();
        let calls =
            info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls="))?.split(',').next());
        calls.map_or(0, |calls| calls.parse::<u64>().unwrap())
    };
    let (waits, scripts) = (calls("xread").await, calls("evalsha").await);
    eventually("it has waited several times", PATIENCE, async || calls("xread").await >= waits + 6).await;
    let scripts = calls("evalsha").await - scripts;
    assert!(scripts < 60, "{scripts} scripts in three seconds");
    consumer.shutdown().await.unwrap();
}

/// The rights that docs/redis.md gives to a consumer's user, with what it has in addition for one that reads partitions.
fn documented_rights() -> Vec<String> {
    let page = include_str!("../../../docs/redis.md").replace("\\|", "|");
    let row = |start: &str| page.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    let rows = [row("| `mailer` |"), row("| [`partitions`]")].concat();
    // The code between backticks that is commands or keys.
    let rights = rows.split('`').skip(1).step_by(2).flat_map(|code| code.split(' '));
    let rights = rights.filter(|right| right.starts_with(['+', '~']) && *right != "~events");
    ["ACL", "SETUSER", "mailer", "on", ">secret"].into_iter().chain(rights).map(str::to_owned).collect()
}

#[actix::test]
async fn the_rights_that_the_page_names_are_enough() {
    let server = Server::start(&[]);
    let mut stream = Stream::on(server.url()).await;
    stream.name = "events".to_owned();
    let parts = Partitioned { stream, added: AtomicI64::new(0) };
    let rights = documented_rights();
    let mut give = ::redis::cmd(&rights[0]);
    rights[1..].iter().for_each(|right| _ = give.arg(right));
    let _: () = give.query_async(&mut parts.stream.connection.clone()).await.unwrap();
    let url = parts.stream.url.replace("redis://", "redis://mailer:secret@");
    let notes = Notes::default();
    let rejects = notes.handler(|event| if event.seq == 0 { Err(HandlerError::permanent("no")) } else { Ok(()) });
    let consumer = parts.builder("one", &url, |_| {}).subscribe(rejects).start().await.unwrap();
    eventually("it has all partitions", PATIENCE, async || held(&consumer) == 16).await;
    parts.add(KEYS).await;
    eventually("all are handled", PATIENCE, async || notes.all().len() == KEYS as usize && parts.pending().await == 0)
        .await;
    assert!(consumer.health().is_ok(), "{:?}", consumer.health());
    consumer.update_gauges().await.unwrap();
    consumer.shutdown().await.unwrap();
    assert_eq!(redis::entries(&parts.stream.url, "{events}.0:dead:mailer").await.len(), 1);
    let members: BTreeMap<String, String> = ::redis::cmd("HGETALL")
        .arg("{events}:consumers:mailer")
        .query_async(&mut parts.stream.connection.clone())
        .await
        .unwrap();
    assert_eq!(members.into_keys().collect::<Vec<_>>(), ["counter"], "it has left");
}
