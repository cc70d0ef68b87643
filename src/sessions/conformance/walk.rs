//! A random walk: workers that die, pause, are fenced and lose their connections, while all events must arrive.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

const EVENTS: i64 = 400;
const SHARDS: i16 = 4;
const STEPS: usize = 120;

/// Walks that each backend takes, unless `OUTBOX_CONFORMANCE_WALKS` says otherwise; a failure names its seed.
const WALKS: u64 = 3;

pub async fn random_faults_lose_double_and_reorder_nothing<T: Target>() {
    let walks = std::env::var("OUTBOX_CONFORMANCE_WALKS").ok().and_then(|text| text.parse().ok()).unwrap_or(WALKS);
    for seed in 0..walks {
        Walk::<T>::new(seed).await.run().await;
    }
}

/// One worker's session, through a proxy of its own.
struct Worker {
    proxy: Proxy,
    session: Box<dyn BackendSession>,
    epoch: i64,
    /// Whether its shards are open, as far as it knows.
    is_open: bool,
}

struct Walk<T: Target> {
    seed: u64,
    random: StdRng,
    bench: Bench<T>,
    events: Vec<OutgoingEvent>,
    /// What the database has as sent.
    settled: BTreeSet<i64>,
    /// What the worker knows as accepted and the database does not have: lost if it dies.
    unrecorded: BTreeSet<i64>,
    worker: Option<Worker>,
    /// Workers that were replaced and do not know it.
    zombies: Vec<Worker>,
    epoch: i64,
}

impl<T: Target> Walk<T> {
    async fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let events = (1..=EVENTS)
            .map(|seq| {
                let number = random.random_range(0..SHARDS);
                let key = if random.random_bool(0.2) {
                    String::new()
                } else {
                    format!("{number}-{}", random.random_range(0..5))
                };
                outgoing(number, fixtures::event(seq, &key))
            })
            .collect();
        let bench = Bench::new().await;
        let (settled, unrecorded) = (BTreeSet::new(), BTreeSet::new());
        Self { seed, random, bench, events, settled, unrecorded, worker: None, zombies: Vec::new(), epoch: 0 }
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            match self.random.random_range(0..20) {
                0 => self.take_over().await,
                1 => self.die(),
                2 | 3 => self.let_a_zombie_send().await,
                4..=8 => self.break_connection(),
                9 => self.kill_server().await,
                10 | 11 => self.record().await,
                _ => self.send().await,
            }
        }
        self.finish().await;
    }

    fn shards(&self) -> Vec<(Shard, i64)> {
        (0..SHARDS).map(|number| (shard(number), self.epoch)).collect()
    }

    /// Opens the shards, perhaps after several tries.
    async fn ready(&mut self) -> bool {
        if self.worker.is_none() {
            self.epoch += 1;
            let (proxy, session) = self.bench.session_through(SHORT).await;
            self.worker = Some(Worker { proxy, session, epoch: self.epoch, is_open: false });
        }
        let shards = self.shards();
        let Some(worker) = &mut self.worker else { return false };
        if worker.is_open {
            return true;
        }
        // An outage ends some time.
        if self.random.random_bool(0.5) {
            worker.proxy.set(Passage::Open);
        }
        let Ok(opened) = worker.session.open(&shards).await else { return false };
        assert!(opened.refused.is_empty(), "seed {}: {opened:?}", self.seed);
        worker.is_open = true;
        self.unrecorded.clear();
        let sent: Vec<(Uuid, i64)> = opened.sent.iter().map(|(_, id, seq)| (*id, *seq)).collect();
        self.settled.extend(sent.iter().map(|(_, seq)| *seq));
        worker.session.settled(&sent);
        true
    }

    async fn take_over(&mut self) {
        self.unrecorded.clear();
        self.zombies.extend(self.worker.take());
        self.zombies.truncate(3);
        self.ready().await;
    }

    fn die(&mut self) {
        self.unrecorded.clear();
        self.worker = None;
    }

    fn break_connection(&mut self) {
        let passages = [
            Passage::CutAtReply,
            Passage::LoseReplies,
            Passage::CutInRequest(self.random.random()),
            Passage::CutInReply(self.random.random()),
            Passage::HoldRequests,
            Passage::HoldReplies,
            Passage::Delay(SHORT / 8),
            Passage::Open,
        ];
        let (Some(worker), Some(passage)) = (&self.worker, passages.choose(&mut self.random)) else { return };
        worker.proxy.set(*passage);
    }

    async fn kill_server(&mut self) {
        self.bench.target.kill().await;
        self.bench.target.start_again().await;
    }

    /// Puts down what was accepted; the worker then removes it from the journal, sometimes.
    async fn record(&mut self) {
        let recorded = std::mem::take(&mut self.unrecorded);
        let names: Vec<(Uuid, i64)> =
            self.pick(|seq| recorded.contains(&seq)).iter().map(|one| (one.event.id, one.event.seq)).collect();
        self.settled.extend(recorded);
        let flushes = self.random.random_bool(0.3);
        if let Some(worker) = &mut self.worker {
            worker.session.settled(&names);
            if flushes && worker.session.flush().await.is_err() {
                worker.is_open = false;
            }
        }
    }

    fn pick(&self, wanted: impl Fn(i64) -> bool) -> Vec<OutgoingEvent> {
        self.events.iter().filter(|one| wanted(one.event.seq)).cloned().collect()
    }

    /// Some of the next events, in order, and of each key without a gap.
    fn next_batch(&mut self) -> Vec<OutgoingEvent> {
        let count = self.random.random_range(1..25);
        let mut batch = self.pick(|seq| !self.settled.contains(&seq) && !self.unrecorded.contains(&seq));
        batch.truncate(count);
        batch
    }

    async fn send(&mut self) {
        let batch = self.next_batch();
        if batch.is_empty() || !self.ready().await {
            return;
        }
        // What the open has found is not sent again.
        let batch: Vec<OutgoingEvent> =
            batch.into_iter().filter(|one| !self.settled.contains(&one.event.seq)).collect();
        let Some(worker) = self.worker.as_mut().filter(|_| !batch.is_empty()) else { return };
        let sent = worker.session.send(&batch).await;
        worker.is_open = sent.closed.is_empty() && sent.unavailable.is_none();
        for (one, answer) in batch.iter().zip(&sent.answers) {
            match answer {
                SendResult::Accepted => drop(self.unrecorded.insert(one.event.seq)),
                // A host that is left alone for a while, by a backend that has many.
                SendResult::NotSent | SendResult::Deferred(..) => {}
                other => panic!("seed {}: {other:?}", self.seed),
            }
        }
    }

    async fn let_a_zombie_send(&mut self) {
        let batch = self.next_batch();
        let Some(index) = (!self.zombies.is_empty()).then(|| self.random.random_range(0..self.zombies.len())) else {
            return;
        };
        if batch.is_empty() {
            return;
        }
        let zombie = &mut self.zombies[index];
        zombie.proxy.set(Passage::Open);
        let fenced = self.worker.as_ref().is_some_and(|worker| worker.is_open && worker.epoch > zombie.epoch);
        if T::PROMISE == Promise::Once && fenced {
            let sent = zombie.session.send(&batch).await;
            let none = sent.answers.iter().all(|answer| *answer == SendResult::NotSent);
            assert!(none, "seed {}: a session that was fenced has sent {sent:?}", self.seed);
        }
    }

    async fn finish(mut self) {
        self.zombies.iter().for_each(|zombie| zombie.proxy.set(Passage::Open));
        self.record().await;
        while self.settled.len() < self.events.len() {
            if let Some(worker) = &self.worker {
                worker.proxy.set(Passage::Open);
            }
            self.send().await;
            self.record().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let received = self.bench.target.received().await;
        let numbers: HashMap<Uuid, (String, i64)> =
            self.events.iter().map(|one| (one.event.id, (one.event.partition_key.clone(), one.event.seq))).collect();
        let distinct: BTreeSet<&Uuid> = received.iter().collect();
        let lost: Vec<i64> =
            self.events.iter().filter(|one| !distinct.contains(&one.event.id)).map(|one| one.event.seq).collect();
        assert!(lost.is_empty(), "seed {}: lost {lost:?}", self.seed);
        if T::PROMISE == Promise::Once {
            assert_eq!(received.len(), distinct.len(), "seed {}: doubled", self.seed);
        }
        for (key, seqs) in by_key(&received, &numbers) {
            assert!(seqs.is_sorted(), "seed {}: key {key} arrived as {seqs:?}", self.seed);
        }
    }
}
