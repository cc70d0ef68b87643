//! The outcome of each event of a mixed load, compared with its planned outcome.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::handlers::{self, Handled};
use super::operator::Deeds;
use super::plan::{End, Plan, Target};
use crate::reconcile::{Losses, Reconciliation};
use crate::writers::Committed;

/// An event's row: its status and number of rejections.
pub(super) type Rows = HashMap<Uuid, (String, i32)>;

pub(super) struct Account<'a> {
    pub(super) written: &'a [Vec<Plan>],
    pub(super) deeds: &'a Deeds,
    pub(super) rows: &'a Rows,
    /// The events in each target, in the target's order.
    pub(super) found: &'a HashMap<Target, Vec<Uuid>>,
    pub(super) handled: &'a Handled,
}

impl Account<'_> {
    /// The reconciliation over all targets.
    pub(super) fn reconciliation(&self) -> Reconciliation {
        let mut sum = Reconciliation::default();
        for target in Target::ALL {
            let found = &self.found[&target];
            let entries = if target.is_exact() { found.clone() } else { first_of_each(found) };
            let expected = |plan: &Plan| plan.target == target && plan.end == End::Published;
            sum.add(Reconciliation::after(&self.replays(target), &self.committed(expected), &entries));
        }
        for kind in &handlers::ALL {
            sum.add(Reconciliation::of(
                &self.committed(|plan| kind.wants(plan)),
                &first_of_each(&self.handled[kind.name]),
            ));
        }
        sum
    }

    fn committed(&self, wanted: impl Fn(&Plan) -> bool) -> Vec<Vec<Committed>> {
        let of_one = |plans: &Vec<Plan>| {
            let plans = plans.iter().filter(|plan| wanted(plan));
            // They are ordered by their times.
            let key = |plan: &Plan| if plan.delay_millis > 0 { String::new() } else { plan.key.clone() };
            plans.map(|plan| Committed { id: plan.id, key: key(plan) }).collect()
        };
        self.written.iter().map(of_one).collect()
    }

    /// A replay is sent again.
    fn replays(&self, target: Target) -> Losses {
        let mut losses = Losses::default();
        for (id, times) in self.deeds.replayed.iter().filter(|_| target == Target::Stream) {
            (0..*times).for_each(|_| losses.expect_again(*id));
        }
        losses
    }

    /// Other problems, including retries without a planned cause.
    pub(super) fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let aged: HashSet<&Uuid> = self.deeds.aged.iter().collect();
        for plan in self.written.iter().flatten() {
            match self.rows.get(&plan.id) {
                Some((status, retries)) => findings.extend(unexpected(plan, status, *retries)),
                None if aged.contains(&plan.id) => {}
                None => findings.push(format!("{} ({}) has no row", plan.id, plan.kind)),
            }
        }
        for id in &self.deeds.failed {
            if self.rows.get(id).is_none_or(|(status, _)| status != "failed") {
                findings.push(format!("{id}, which an operator marked as failed, is {:?}", self.rows.get(id)));
            }
        }
        let in_stream: HashMap<&Uuid, usize> = counts(&self.found[&Target::Stream]);
        for (id, times) in &self.deeds.replayed {
            let found = in_stream.get(id).copied().unwrap_or_default();
            if found != times + 1 {
                findings.push(format!("{id} was replayed {times} times and is in the stream {found} times"));
            }
        }
        findings.truncate(20);
        findings
    }

    /// The number of events of each kind, and the operators' actions: shows whether a run covered them.
    pub(super) fn summary(&self) -> String {
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        self.written.iter().flatten().for_each(|plan| *kinds.entry(plan.kind).or_default() += 1);
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let Deeds { replayed, failed, fixed, aged } = self.deeds;
        let deleted = aged.iter().filter(|id| !self.rows.contains_key(id)).count();
        format!(
            "{}; operators replayed {}, failed {} and fixed {fixed}; retention deleted {deleted}",
            kinds.join(", "),
            replayed.values().sum::<usize>(),
            failed.len(),
        )
    }
}

fn unexpected(plan: &Plan, status: &str, retries: i32) -> Option<String> {
    let end = match plan.end {
        End::Published => "published",
        End::Failed => "failed",
    };
    let as_planned = status == end && plan.retries.allow(retries);
    (!as_planned).then(|| {
        let Plan { id, kind, subject, .. } = plan;
        format!("{id} ({kind} {subject}) is {status} after {retries} retries; expected {end}, {:?}", plan.retries)
    })
}

fn counts(ids: &[Uuid]) -> HashMap<&Uuid, usize> {
    let mut counts = HashMap::new();
    ids.iter().for_each(|id| *counts.entry(id).or_default() += 1);
    counts
}

fn first_of_each(ids: &[Uuid]) -> Vec<Uuid> {
    let mut seen = HashSet::new();
    ids.iter().filter(|id| seen.insert(**id)).copied().collect()
}

#[test]
fn an_account_names_every_end_that_was_not_expected() {
    use rand::SeedableRng;
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let plans: Vec<Plan> = (0..200).map(|_| Plan::draw(&mut rng, String::new())).collect();
    let Some(refused) = plans.iter().find(|plan| plan.kind == "refused" && plan.end == End::Published) else {
        panic!()
    };
    let handled = plans.iter().find(|plan| handlers::ALL[0].wants(plan)).unwrap();
    let written = [vec![refused.clone(), handled.clone()]];
    let end = |plan: &Plan, more: i32| (plan.id, ("published".to_owned(), plan.retries.least() + more));
    let deeds = Deeds { replayed: HashMap::from([(handled.id, 1)]), ..Deeds::default() };
    let check_with = |mailer: &[Uuid], rows: &Rows, stream: &[Uuid], accepted: &[Uuid]| {
        let none = (Target::Held, Vec::new());
        let found = HashMap::from([(Target::Stream, stream.to_vec()), (Target::Accepted, accepted.to_vec())]);
        let found = found.into_iter().chain([none, (Target::Lines, Vec::new())]).collect();
        let handled =
            Handled::from([("mailer", mailer.to_vec()), ("biller", Vec::new()), ("auditor", vec![handled.id])]);
        let account = Account { written: &written, deeds: &deeds, rows, found: &found, handled: &handled };
        (account.findings().len(), account.reconciliation().is_even())
    };
    let check = |rows: &Rows, stream: &[Uuid], accepted: &[Uuid]| check_with(&[handled.id], rows, stream, accepted);
    let rows = Rows::from([end(refused, 0), end(handled, 2)]);
    assert_eq!(check(&rows, &[handled.id, handled.id], &[refused.id, refused.id]), (0, true));
    let unhandled = check_with(&[], &rows, &[handled.id; 2], &[refused.id]);
    assert_eq!(unhandled, (0, false), "one of its two handlers did not get it");
    assert_eq!(check(&rows, &[handled.id], &[refused.id]), (1, true), "the replay is missing");
    assert_eq!(check(&rows, &[handled.id; 3], &[refused.id]), (1, false), "one too many");
    assert_eq!(check(&rows, &[handled.id; 2], &[]), (0, false), "lost");
    let rows = Rows::from([end(refused, 1)]);
    assert_eq!(check(&rows, &[handled.id; 2], &[refused.id]), (2, true), "a retry too many, and a row that is gone");
}
