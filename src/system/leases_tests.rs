use proptest::prelude::*;

use super::*;
use crate::store::LeaseRow;

const LANE: &str = "orders";

fn live_worker(n: u128, backends: &str, handlers: &str) -> LiveWorker {
    LiveWorker {
        id: Uuid::from_u128(n),
        backends: by_lane(backends),
        handlers: handlers.to_owned(),
        started_at: n as i64,
    }
}

fn able(n: u128) -> LiveWorker {
    live_worker(n, r#"{"orders": "ok"}"#, "[]")
}

fn snapshot(shards: i16, live_workers: Vec<LiveWorker>) -> LeaseSnapshot {
    let row = |number| LeaseRow { shard: shard(number), owner: None, epoch: 0, expired: true };
    LeaseSnapshot { live_workers, leases: (0..shards).map(row).collect(), ..LeaseSnapshot::default() }
}

fn share_of(n: u128, snapshot: &LeaseSnapshot, given_up: bool) -> Share {
    fair_share(Uuid::from_u128(n), LANE, snapshot, given_up)
}

fn stands_by(share: &Share) -> bool {
    matches!(share, Share::StandBy(_))
}

#[test]
fn one_two_three_and_five_workers_share_32_shards() {
    for (workers, target) in [(1, 32), (2, 16), (3, 11), (5, 7)] {
        let snapshot = snapshot(32, (1..=workers).map(able).collect());
        assert!((1..=workers).all(|n| share_of(n, &snapshot, false) == Share::Target(target)), "{workers}");
    }
}

#[test]
fn workers_that_do_not_serve_the_lane_do_not_count() {
    let snapshot =
        snapshot(32, vec![able(1), live_worker(2, r#"{"other": "ok"}"#, "[]"), live_worker(3, "nonsense", "[]")]);
    assert_eq!(share_of(1, &snapshot, false), Share::Target(32));
    assert!(stands_by(&share_of(2, &snapshot, false)));
    assert!(stands_by(&share_of(9, &snapshot, false)), "a worker without a heartbeat takes nothing yet");
}

#[test]
fn a_worker_that_lacks_a_handler_stands_by_and_names_it() {
    let snapshot = snapshot(
        32,
        vec![
            live_worker(1, r#"{"orders": "ok"}"#, r#"["mail", "audit"]"#),
            live_worker(2, r#"{"orders": "ok"}"#, r#"["mail"]"#),
        ],
    );
    assert_eq!(share_of(1, &snapshot, false), Share::Target(32));
    let Share::StandBy(reason) = share_of(2, &snapshot, false) else { panic!("it lacks a handler") };
    assert!(reason.ends_with("lacks: audit"), "{reason}");
}

#[test]
fn where_no_worker_has_every_handler_the_newest_works() {
    let ok = r#"{"orders": "ok"}"#;
    let snapshot = snapshot(32, vec![live_worker(1, ok, r#"["old"]"#), live_worker(2, ok, r#"["new"]"#)]);
    assert!(stands_by(&share_of(1, &snapshot, false)));
    assert_eq!(share_of(2, &snapshot, false), Share::Target(32));
}

#[test]
fn a_backend_is_given_up_only_where_another_worker_has_it() {
    let down = |n| live_worker(n, r#"{"orders": "connection refused"}"#, "[]");
    let mixed = snapshot(32, vec![able(1), down(2)]);
    assert!(stands_by(&share_of(2, &mixed, true)));
    assert_eq!(share_of(2, &mixed, false), Share::Target(16), "a short failure changes nothing");
    assert_eq!(share_of(1, &mixed, false), Share::Target(32), "and another worker may take all shards");
    let dark = snapshot(32, vec![down(1), down(2)]);
    assert!((1..=2).all(|n| !stands_by(&share_of(n, &dark, true))), "if no worker can take it, all keep trying");
}

#[test]
fn an_unproven_backend_gets_one_shard_while_another_worker_delivers() {
    let trying = |n| live_worker(n, r#"{"orders": {"health": "refuses", "trying": true}}"#, "[]");
    let down = |n| live_worker(n, r#"{"orders": "refuses"}"#, "[]");
    let mixed = snapshot(32, vec![able(1), trying(2), down(3)]);
    assert_eq!(share_of(1, &mixed, false), Share::Target(31));
    assert_eq!(share_of(2, &mixed, true), Share::Target(1));
    assert!(stands_by(&share_of(3, &mixed, true)));
    let nobody_delivers = snapshot(32, vec![trying(1), trying(2), down(3)]);
    assert_eq!([1, 2].map(|n| share_of(n, &nobody_delivers, true)), [Share::Target(16), Share::Target(16)]);
    assert!(stands_by(&share_of(3, &nobody_delivers, true)), "this worker has failed, the others may succeed");
    let one_shard = snapshot(1, vec![able(1), trying(2)]);
    assert_eq!(share_of(1, &one_shard, false), Share::Target(1), "the only shard is not left to a worker on trial");
}

#[derive(Debug, Clone)]
struct Worker {
    healthy: bool,
    trying: bool,
    complete: bool,
    given_up: bool,
}

fn worker() -> impl Strategy<Value = Worker> {
    (prop::bool::weighted(0.6), any::<bool>(), prop::bool::weighted(0.8), any::<bool>()).prop_map(
        |(healthy, trying, complete, given_up)| Worker {
            healthy,
            trying: trying && !healthy,
            complete,
            given_up: given_up && !healthy,
        },
    )
}

proptest! {
    #[test]
    fn targets_cover_every_shard_and_none_is_above_the_fair_share(
        workers in prop::collection::vec(worker(), 1..9), shards in prop::sample::select(vec![1_i16, 32]),
    ) {
        let live_workers: Vec<LiveWorker> = workers.iter().enumerate().map(|(n, worker)| live_worker(
            n as u128 + 1,
            match (worker.healthy, worker.trying) {
                (true, _) => r#"{"orders": "ok"}"#,
                (false, true) => r#"{"orders": {"health": "down", "trying": true}}"#,
                (false, false) => r#"{"orders": "down"}"#,
            },
            if worker.complete { r#"["a", "b"]"# } else { r#"["a"]"# },
        )).collect();
        let snapshot = snapshot(shards, live_workers);
        let all_the_same = workers.iter().all(|worker| !worker.complete);
        let able: Vec<bool> = workers.iter().map(|worker| worker.healthy && (worker.complete || all_the_same)).collect();
        let delivering = able.iter().filter(|able| **able).count();
        let tried = workers.iter().filter(|worker| worker.trying && (worker.complete || all_the_same)).count();
        let eligible = if delivering > 0 { delivering } else { tried };
        let fair = (shards as usize).div_ceil(eligible.max(1));
        let left_to_tries = tried.min(shards as usize - 1);
        let mut covered = 0;
        for (n, worker) in workers.iter().enumerate() {
            match share_of(n as u128 + 1, &snapshot, worker.given_up) {
                Share::Target(target) => {
                    prop_assert!(worker.complete || all_the_same, "a handler is missing");
                    prop_assert!(!(worker.given_up && !worker.trying && eligible > 0), "others have the backend");
                    prop_assert!(!worker.trying || delivering == 0 || target == 1, "a worker on trial takes one shard");
                    prop_assert!(target >= 1 && target <= fair);
                    if able[n] {
                        let fair = (shards as usize - left_to_tries).div_ceil(eligible);
                        prop_assert_eq!(target, fair);
                    }
                    covered += target;
                }
                Share::StandBy(_) => prop_assert!(!able[n]),
            }
        }
        prop_assert!(covered >= shards as usize, "{} of {} shards are in the share of a worker", covered, shards);
    }
}

// Held leases.

fn shard(number: i16) -> Shard {
    Shard { lane: LANE.into(), number }
}

fn later(seconds: u64) -> BootInstant {
    BootInstant::now().after(Duration::from_secs(seconds))
}

#[test]
fn a_lease_counts_until_its_deadline_and_at_its_epoch_alone() {
    let (leases, now, end) = (Leases::default(), later(0), later(10));
    leases.keep().add(&[(shard(1), 4)], end);
    assert!(leases.covers(&shard(1), 4, now));
    assert!(!leases.covers(&shard(1), 3, now) && !leases.covers(&shard(2), 4, now));
    assert!(!leases.covers(&shard(1), 4, end) && leases.readable(LANE, end).is_empty());
}

#[test]
fn what_a_heartbeat_did_not_renew_is_no_longer_held() {
    let leases = Leases::default();
    let keeping = leases.keep();
    keeping.add(&[(shard(1), 1), (shard(2), 1), (shard(3), 1)], later(10));
    keeping.renew(&[(shard(1), 1), (shard(3), 2)], later(30));
    assert_eq!(keeping.all(), [(shard(1), 1)]);
    assert_eq!(leases.readable(LANE, later(20)), [(shard(1), 1)], "until the new deadline");
}

#[test]
fn a_renewal_adds_nothing_to_what_is_held() {
    let leases = Leases::default();
    let keeping = leases.keep();
    keeping.renew(&[(shard(1), 1)], later(10));
    assert!(keeping.all().is_empty());
}

#[test]
fn a_lease_past_its_deadline_is_still_there_to_be_renewed() {
    let leases = Leases::default();
    let keeping = leases.keep();
    keeping.add(&[(shard(1), 1)], later(0));
    assert!(leases.readable(LANE, later(0)).is_empty());
    keeping.renew(&keeping.all(), later(10));
    assert_eq!(leases.readable(LANE, later(0)), [(shard(1), 1)]);
}

#[test]
fn a_shard_that_is_being_given_up_is_neither_read_nor_sent_for() {
    let leases = Leases::default();
    let keeping = leases.keep();
    keeping.add(&[(shard(1), 1)], later(10));
    keeping.drain(&[shard(1), shard(2)]);
    assert!(leases.readable(LANE, later(0)).is_empty());
    assert!(!leases.covers(&shard(1), 1, later(0)), "queued events are released");
    keeping.renew(&[(shard(1), 1)], later(10));
    assert_eq!(keeping.draining(), [(shard(1), 1)], "a heartbeat does not take it back");
    keeping.remove(&[(shard(1), 1)]);
    assert!(leases.counts().is_empty());
}

#[test]
fn a_lease_being_given_up_is_not_read_again_after_its_epoch_was_raised() {
    let leases = Leases::default();
    let keeping = leases.keep();
    keeping.add(&[(shard(1), 1)], later(10));
    keeping.drain(&[shard(1)]);
    keeping.renew(&[(shard(1), 41)], later(10));
    assert!(leases.readable(LANE, later(0)).is_empty());
}

#[test]
fn a_lease_that_names_this_worker_without_its_knowing_is_a_stray() {
    let (leases, me) = (Leases::default(), Uuid::from_u128(1));
    let keeping = leases.keep();
    keeping.add(&[(shard(0), 1)], later(10));
    let mut snapshot = snapshot(4, Vec::new());
    for (number, owner) in [(0, Some(me)), (1, Some(me)), (2, Some(Uuid::from_u128(2))), (3, None)] {
        snapshot.leases[number].owner = owner;
        snapshot.leases[number].epoch = 7;
    }
    assert_eq!(keeping.unknown_leases(me, &snapshot), [(shard(1), 7)]);
}

#[test]
fn one_alone_changes_what_is_held_also_after_one_that_panicked() {
    let leases = Leases::default();
    let first = leases.keep();
    assert!(leases.changing.try_lock().is_err());
    drop(first);
    std::thread::scope(|scope| {
        let panicking = scope.spawn(|| {
            let _keeping = leases.keep();
            panic!("on purpose");
        });
        assert!(panicking.join().is_err());
    });
    leases.keep().add(&[(shard(1), 1)], later(10));
    assert!(leases.covers(&shard(1), 1, later(0)));
}
