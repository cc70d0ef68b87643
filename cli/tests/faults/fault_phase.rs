//! A phase of faults on its own servers: set-up, faults, recovery, and comparison.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::deployment::{Deployment, PASSWORD, Pace};
use crate::figures::{Figures, Meter};
use crate::kinds::Kind;
use crate::limits::Limits;
use crate::reconcile::Reconciliation;
use crate::writers::Writers;

/// Concurrent faults, if several kinds run together.
const CONCURRENCY: u64 = 3;
/// How long after the last fault it may take until every event is published.
pub(crate) const HEALING: Duration = Duration::from_secs(60);
/// How long the next long fault waits for the backlog of the last one, while other faults run.
const RECOVERY: Duration = Duration::from_secs(300);

pub(crate) struct FaultPhase {
    name: String,
    kinds: Vec<Kind>,
    concurrency: u64,
    until: Until,
    pace: Pace,
}

enum Until {
    Rounds(u32),
    Elapsed(Duration),
}

/// The number of faults of each kind.
pub(crate) type Faults = BTreeMap<Kind, u32>;

/// The findings after recovery.
pub(crate) struct Found {
    pub(crate) reconciliation: Reconciliation,
    pub(crate) stuck: i64,
    pub(crate) retries: i64,
    pub(crate) figures: Figures,
}

/// The outcome of the phase.
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) faults: Faults,
    pub(crate) reconciliation: Reconciliation,
    /// Events not published when the wait was over.
    pub(crate) stuck: i64,
    /// Retries that events spent; an outage costs none.
    pub(crate) retries: i64,
    pub(crate) takeovers: Vec<Duration>,
    /// Workers that ended by themselves, with their last log lines.
    pub(crate) deaths: Vec<String>,
    /// Log lines of workers with the password that is in every address.
    pub(crate) told: Vec<String>,
    /// Findings of the faults' own checks.
    pub(crate) findings: Vec<String>,
    pub(crate) figures: Figures,
    /// Figures above their limits.
    pub(crate) excesses: Vec<String>,
}

impl Outcome {
    pub(crate) fn is_good(&self) -> bool {
        let zeros = self.reconciliation.is_even() && self.stuck == 0 && self.retries == 0;
        zeros && self.deaths.is_empty() && self.told.is_empty() && self.findings.is_empty() && self.excesses.is_empty()
    }

    /// The problems, in words.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        let stuck = (self.stuck > 0).then(|| format!("{} events are stuck", self.stuck));
        let retries = (self.retries > 0).then(|| format!("{} retries were spent", self.retries));
        let examples = self.reconciliation.examples.iter().chain(&self.findings).cloned();
        let deaths = self.deaths.iter().map(|death| format!("ended by itself: {death}"));
        let excesses = self.excesses.iter().map(|excess| format!("above its limit: {excess}"));
        let told = self.told.iter().map(|line| format!("logged a secret: {line}"));
        stuck.into_iter().chain(retries).chain(examples).chain(deaths).chain(excesses).chain(told)
    }

    /// Writes the workers' logs into a file, to investigate a failure.
    pub(crate) fn keep_unless_good(&self, seed: u64, logs: impl FnOnce() -> String) {
        if self.is_good() {
            return;
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let file = folder.join(format!("faults-{seed}-{}.log", self.name.replace(' ', "-")));
        let problems: String = self.problems().map(|problem| problem + "\n").collect();
        std::fs::write(&file, problems + &logs()).unwrap();
        println!("{}: the workers' logs are in {}", self.name, file.display());
    }
}

impl FaultPhase {
    /// A quarter as many for long faults.
    pub(crate) fn alone(kind: Kind, rounds: u32) -> Self {
        let rounds = if kind.is_long() { rounds.div_ceil(4) } else { rounds };
        Self {
            name: kind.to_string(),
            kinds: vec![kind],
            concurrency: 1,
            until: Until::Rounds(rounds),
            pace: Pace::Long,
        }
    }

    /// All kinds together, except those that need the servers or the workers for themselves.
    pub(crate) fn together(kinds: &[Kind], span: Duration, pace: Pace) -> Self {
        let kinds = kinds.iter().filter(|kind| !kind.is_for_itself()).copied().collect();
        Self { name: "all together".to_owned(), kinds, concurrency: CONCURRENCY, until: Until::Elapsed(span), pace }
    }

    /// All kinds together, under a mixed load.
    pub(crate) fn mixed(kinds: &[Kind], span: Duration, pace: Pace) -> Self {
        Self { name: "mixed load".to_owned(), ..Self::together(kinds, span, pace) }
    }

    pub(crate) fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    pub(crate) fn pace(&self) -> Pace {
        self.pace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) async fn run(self, seed: u64) -> Outcome {
        let deployment = Deployment::paced(self.pace).await;
        self.run_on(deployment, seed).await
    }

    /// Runs with events that are deleted once they are done.
    pub(crate) async fn run_deleting(self, seed: u64) -> Outcome {
        let deployment = Deployment::deleting(self.pace).await;
        self.run_on(deployment, seed).await
    }

    async fn run_on(self, deployment: Deployment, seed: u64) -> Outcome {
        deployment.start_workers().await;
        let meter = Meter::start(deployment.url(), deployment.processes.clone());
        let writers = Writers::start(deployment.url(), seed);
        let faults = self.inflict_all(&deployment, seed).await;
        let committed = writers.finish().await;
        let stuck = deployment.drain(HEALING).await;
        let figures = meter.finish().await;
        let retries = deployment.number("SELECT coalesce(sum(retry_count), 0)::bigint FROM outbox_events").await;
        let losses = deployment.notes().losses.clone();
        let reconciliation = Reconciliation::after(&losses, &committed, &deployment.stream().await);
        self.conclude(&deployment, seed, faults, Found { reconciliation, stuck, retries, figures }).await
    }

    pub(crate) async fn inflict_all(&self, deployment: &Deployment, seed: u64) -> Faults {
        let concurrency = (0..self.concurrency).map(|hand| self.inflict(deployment, hand, seed));
        let mut faults = Faults::new();
        for kind in join_all(concurrency).await.into_iter().flatten() {
            *faults.entry(kind).or_default() += 1;
        }
        faults
    }

    /// Ends the workers, and keeps their logs if there is a problem.
    pub(crate) async fn conclude(self, deployment: &Deployment, seed: u64, faults: Faults, found: Found) -> Outcome {
        let Found { reconciliation, stuck, retries, figures } = found;
        let limits = Limits::of(&self.kinds, self.pace, self.concurrency > 1, faults.values().sum(), figures.span);
        let limits = if deployment.is_mixed() { limits.of_large_events() } else { limits };
        deployment.stop_workers().await;
        let notes = std::mem::take(&mut *deployment.notes());
        let told = notes.logs.lines().filter(|line| line.contains(PASSWORD)).map(str::to_owned).collect();
        let (takeovers, deaths, findings) = (notes.takeovers, notes.deaths, notes.findings);
        let excesses = limits.excesses(&figures, reconciliation.committed);
        let name = self.name;
        let outcome = Outcome {
            name,
            faults,
            reconciliation,
            stuck,
            retries,
            takeovers,
            deaths,
            told,
            findings,
            figures,
            excesses,
        };
        let dump = if outcome.is_good() { String::new() } else { deployment.dump().await };
        outcome.keep_unless_good(seed, || notes.course + &dump + &notes.logs);
        outcome
    }

    /// Draws one fault after the other from a shuffled list, so that all kinds are equally frequent. Long faults run one at
    /// a time.
    async fn inflict(&self, deployment: &Deployment, hand: u64, seed: u64) -> Vec<Kind> {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(hand));
        let whole: Vec<Kind> = self.kinds.iter().filter(|kind| hand == 0 || !kind.is_long()).copied().collect();
        let began = Instant::now();
        let (mut done, mut deck) = (Vec::new(), Vec::new());
        loop {
            let over = match self.until {
                Until::Rounds(rounds) => done.len() >= rounds as usize,
                Until::Elapsed(span) => began.elapsed() >= span,
            };
            if over || whole.is_empty() {
                return done;
            }
            if deck.is_empty() {
                deck.clone_from(&whole);
                deck.shuffle(&mut rng);
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
            let kind = deck.pop().unwrap();
            deployment.under_way.fetch_add(1, Ordering::SeqCst);
            deployment.begun.fetch_add(1, Ordering::SeqCst);
            deployment.notes().course(&format!("{kind} begins"));
            kind.inflict(deployment, &mut rng).await;
            deployment.notes().course(&format!("{kind} ends"));
            deployment.under_way.fetch_sub(1, Ordering::SeqCst);
            if kind.is_long() && (self.concurrency == 1 || self.pace == Pace::Long) {
                // Otherwise the next fault's delay would be added, because an event may be due during several faults.
                deployment.recover(RECOVERY).await;
            }
            done.push(kind);
        }
    }
}
