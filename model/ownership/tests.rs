//! The leases hold, and each part of the protocol is needed.

use super::properties::{ALONE, BURIED, DELIVERED, KEPT, LEASED, NEWEST, SHARED};
use super::rules::Probe;
use super::*;
use crate::check::{broken, endless_run, run_that_breaks};

const TWO: &[Reach] = &[Reach::Well, Reach::Well];

/// Two workers, two shards, and this many faults.
fn two_workers(any: u8, faults: Faults) -> Ownership {
    let faults = Faults { any, ..faults };
    Ownership { rules: Rules::ALL, faults, shards: 2, workers: TWO, last_begins: false }
}

fn without(off: impl Fn(&mut Rules)) -> Rules {
    let mut rules = Rules::ALL;
    off(&mut rules);
    rules
}

/// Asserts that every property holds, and that everything comes to rest.
fn assert_holds(model: Ownership) {
    assert_eq!(broken(model), None, "{model:?}");
    assert_eq!(endless_run(&model), None, "{model:?}");
}

/// Asserts that with all rules every property holds, and that without this one the property does not.
fn assert_is_needed(rules: Rules, model: Ownership, property: &'static str) {
    assert_holds(model);
    let run = run_that_breaks(Ownership { rules, ..model }, property);
    assert!(run.is_some(), "it holds without: {rules:?}");
}

#[test]
fn whatever_goes_wrong_with_two_workers_each_shard_is_held_by_one() {
    for last_begins in [false, true] {
        assert_holds(Ownership { last_begins, ..two_workers(2, Faults::of_any_kind(2)) });
    }
}

#[test]
fn however_two_backends_are_reached_one_that_can_deliver_holds_each_shard() {
    for workers in [[Reach::Well, Reach::Down], [Reach::Well, Reach::PingOnly], [Reach::Down, Reach::PingOnly]] {
        let workers: &'static [Reach] = Vec::leak(workers.to_vec());
        assert_holds(Ownership { workers, ..two_workers(1, Faults::of_any_kind(1)) });
    }
}

#[test]
fn whatever_goes_wrong_with_three_workers_each_shard_is_held_by_one() {
    let three = |any, workers| Ownership { workers, shards: 3, ..two_workers(any, Faults::of_any_kind(any)) };
    assert_holds(three(1, &[Reach::Well; 3]));
    assert_holds(three(1, &[Reach::Well, Reach::Well, Reach::PingOnly]));
    assert_holds(three(0, &[Reach::Well, Reach::Down, Reach::PingOnly]));
}

// Never two owners.

#[test]
fn without_a_lock_on_the_owners_row_a_lease_is_taken_after_a_heartbeat() {
    let model = two_workers(1, Faults { expiries: 1, ..Faults::default() });
    assert_is_needed(without(|rules| rules.locks_the_owner = false), model, ALONE);
}

#[test]
fn without_a_check_under_the_lock_a_lease_is_taken_that_was_extended() {
    let model = two_workers(1, Faults { expiries: 1, ..Faults::default() });
    assert_is_needed(without(|rules| rules.checks_under_lock = false), model, ALONE);
}

#[test]
fn a_heartbeat_that_reads_in_its_own_snapshot_keeps_a_lost_lease() {
    let model = two_workers(1, Faults { expiries: 1, ..Faults::default() });
    assert_is_needed(without(|rules| rules.reads_after_the_beat = false), model, ALONE);
}

#[test]
fn without_the_remembered_epoch_a_lease_is_held_that_a_late_release_frees() {
    let model = Ownership { last_begins: true, ..two_workers(1, Faults { lost: 1, ..Faults::default() }) };
    assert_is_needed(without(|rules| rules.at_the_remembered_epoch = false), model, ALONE);
}

#[test]
fn counted_from_the_answer_a_deadline_is_later_than_the_end() {
    let model = two_workers(2, Faults { expiries: 2, ..Faults::default() });
    assert_is_needed(without(|rules| rules.counts_from_the_sending = false), model, ALONE);
}

/// Taking a lease extends no end: the lease ends with the last beat.
#[test]
fn counted_from_the_taking_a_deadline_is_later_than_the_end() {
    let model = Ownership { last_begins: true, ..two_workers(2, Faults { expiries: 2, ..Faults::default() }) };
    assert_is_needed(without(|rules| rules.taken_until_the_beats_end = false), model, ALONE);
}

#[test]
fn by_a_readers_own_lease_time_a_lease_is_taken_that_runs() {
    let model = Ownership { last_begins: true, ..two_workers(0, Faults::default()) };
    assert_is_needed(without(|rules| rules.owners_end = false), model, ALONE);
}

#[test]
fn without_the_epoch_a_late_release_frees_what_was_taken_since() {
    let model = two_workers(3, Faults { lost: 1, turns: 2, ..Faults::default() });
    assert_is_needed(without(|rules| rules.releases_name_the_epoch = false), model, LEASED);
}

/// A row that was deleted and comes back: there was nothing for the other worker to lock.
#[test]
fn a_row_that_comes_back_with_its_leases_is_anothers_too() {
    let model = two_workers(2, Faults { expiries: 1, deletions: 1, ..Faults::default() });
    let neither = without(|rules| (rules.deleting_frees, rules.comes_back_with_nothing) = (false, false));
    assert_is_needed(neither, model, ALONE);
}

/// A lease that the deleted worker took during the deletion is not in the deletion's snapshot.
#[test]
fn freeing_what_a_deleted_row_had_is_not_enough() {
    let model = two_workers(3, Faults { expiries: 2, deletions: 1, lost: 1, turns: 1, ..Faults::default() });
    assert_is_needed(without(|rules| rules.comes_back_with_nothing = false), model, ALONE);
}

#[test]
fn a_row_that_comes_back_with_nothing_is_enough() {
    let rules = without(|rules| rules.deleting_frees = false);
    assert_holds(Ownership { rules, ..two_workers(2, Faults::of_any_kind(2)) });
}

// Deleted rows do not come back, and a late worker loses nothing.

#[test]
fn without_its_number_a_late_beat_puts_an_end_off_after_later_ones() {
    let model = two_workers(2, Faults { lost: 1, expiries: 1, ..Faults::default() });
    assert_is_needed(without(|rules| rules.numbered_beats = false), model, NEWEST);
}

#[test]
fn without_its_incarnation_a_late_beat_puts_the_end_of_another_one_off() {
    let model = two_workers(3, Faults { lost: 1, expiries: 1, deletions: 1, ..Faults::default() });
    let rules = without(|rules| (rules.beats_name_the_incarnation, rules.numbered_beats) = (false, false));
    assert_is_needed(rules, model, NEWEST);
    let numbered = without(|rules| rules.beats_name_the_incarnation = false);
    assert_holds(Ownership { rules: numbered, ..model });
}

#[test]
fn a_beat_that_inserts_brings_a_worker_back_that_has_left() {
    let model = two_workers(3, Faults { lost: 1, leaves: 1, expiries: 1, ..Faults::default() });
    assert_is_needed(without(|rules| rules.beats_only_update = false), model, BURIED);
}

#[test]
fn where_an_end_that_passed_is_not_put_off_nothing_is_kept() {
    let model = two_workers(1, Faults { expiries: 1, ..Faults::default() });
    assert_holds(model);
    let rules = without(|rules| rules.extends_what_ended = false);
    assert_eq!(broken(Ownership { rules, ..model }), Some(KEPT));
}

// A worker that can deliver holds each shard in the end.

#[test]
fn in_one_column_a_stuck_worker_keeps_its_shards() {
    let model = two_workers(1, Faults { sticks: 1, ..Faults::default() });
    assert_is_needed(without(|rules| rules.two_columns = false), model, DELIVERED);
}

#[test]
fn without_releasing_unknown_leases_an_unanswered_acquire_blocks_a_shard() {
    let model = Ownership { last_begins: true, ..two_workers(1, Faults { lost: 1, ..Faults::default() }) };
    assert_is_needed(without(|rules| rules.releases_unknown = false), model, DELIVERED);
}

/// An event that cannot be recorded stays in flight, which keeps its shard busy.
#[test]
fn without_releasing_unknown_leases_unrecordable_events_block_a_shard() {
    let model = Ownership { last_begins: true, ..two_workers(2, Faults { lost: 1, burdens: 1, ..Faults::default() }) };
    assert_is_needed(without(|rules| rules.releases_unknown_while_busy = false), model, DELIVERED);
}

#[test]
fn without_hand_over_of_unrecordable_events_a_failing_worker_keeps_shards() {
    let model = two_workers(2, Faults { turns: 1, burdens: 1, ..Faults::default() });
    assert_is_needed(without(|rules| rules.hands_over_what_cannot_be_recorded = false), model, DELIVERED);
}

#[test]
fn a_beat_that_waits_for_a_lock_keeps_its_workers_shards_from_all() {
    let model = two_workers(1, Faults { locks: 1, ..Faults::default() });
    assert_is_needed(without(|rules| rules.beats_never_wait = false), model, DELIVERED);
}

/// Workers skip a locked row, so no other worker takes the leases of its worker until that worker releases them.
#[test]
fn without_its_own_release_a_worker_with_a_locked_row_blocks_its_shards() {
    let model = two_workers(1, Faults { locks: 1, ..Faults::default() });
    assert_is_needed(without(|rules| rules.releases_when_skipped = false), model, DELIVERED);
}

#[test]
fn where_a_rowless_owner_counts_a_late_taking_keeps_a_shard_from_all() {
    let model = Ownership { last_begins: true, ..two_workers(2, Faults { leaves: 1, lost: 1, ..Faults::default() }) };
    assert_is_needed(without(|rules| rules.rowless_is_free = false), model, DELIVERED);
}

/// A late report is the last one, and the worker believes that the earlier one is.
#[test]
fn a_health_report_written_only_when_it_changes_stays_wrong_forever() {
    let model = two_workers(3, Faults { lost: 1, turns: 3, ..Faults::default() });
    assert_is_needed(without(|rules| rules.reports_are_compared = false), model, SHARED);
}

// Backends that answer health checks and refuse writes.

#[test]
fn a_health_check_that_ends_any_pause_moves_shards_back_and_forth() {
    let model = Ownership { workers: &[Reach::Well, Reach::PingOnly], ..two_workers(0, Faults::default()) };
    assert_holds(model);
    let rules = without(|rules| rules.probe = Probe::Answer);
    assert!(endless_run(&Ownership { rules, ..model }).is_some());
}

/// The other worker can deliver again, and has nothing to show that with, because the one that cannot keeps everything.
#[test]
fn if_only_an_accepted_event_ends_a_pause_a_failing_worker_keeps_shards() {
    let model = Ownership {
        workers: &[Reach::Well, Reach::PingOnly],
        ..two_workers(2, Faults { turns: 2, ..Faults::default() })
    };
    let rules = |shared| without(|rules| (rules.probe, rules.shared_where_none_is_well) = (Probe::Acceptance, shared));
    assert_is_needed(rules(false), model, DELIVERED);
    assert_eq!(run_that_breaks(Ownership { rules: rules(true), ..model }, DELIVERED), None);
}

/// After an outage for all, the first worker that delivers again gets everything, and keeps it.
#[test]
fn if_only_an_accepted_event_ends_a_pause_a_recovered_worker_stands_by() {
    let model = Ownership {
        workers: &[Reach::Well, Reach::PingOnly],
        ..two_workers(1, Faults { turns: 1, ..Faults::default() })
    };
    assert_is_needed(without(|rules| rules.probe = Probe::Acceptance), model, SHARED);
}

#[test]
fn where_the_probe_writes_each_can_show_that_it_delivers_again() {
    let rules = without(|rules| rules.shared_where_none_is_well = false);
    for workers in [&[Reach::Well, Reach::PingOnly], &[Reach::Down, Reach::PingOnly]] {
        assert_holds(Ownership { rules, workers, ..two_workers(2, Faults { turns: 2, ..Faults::default() }) });
    }
}
