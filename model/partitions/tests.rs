//! Entries are begun in order and by one consumer at a time, and each part of the protocol is needed.

use super::*;
use crate::check::{broken, endless_run, run_that_breaks};

const FAULTS: [Faults; 6] = [
    Faults { lost: 1, ends: 1, moves: 0, deaths: 0 },
    Faults { lost: 0, ends: 2, moves: 0, deaths: 0 },
    Faults { lost: 1, ends: 0, moves: 1, deaths: 0 },
    Faults { lost: 0, ends: 1, moves: 1, deaths: 0 },
    Faults { lost: 1, ends: 0, moves: 0, deaths: 1 },
    Faults { lost: 1, ends: 1, moves: 1, deaths: 0 },
];

fn assert_is_needed(off: impl Fn(&mut Rules), property: &'static str) {
    let mut rules = Rules::ALL;
    off(&mut rules);
    let run = FAULTS.into_iter().find_map(|faults| run_that_breaks(Partitions { rules, faults }, property));
    assert!(run.is_some(), "it holds without: {rules:?}");
}

#[test]
fn whatever_goes_wrong_entries_are_begun_in_order_by_one_consumer_and_all_are_handled() {
    for faults in FAULTS {
        let model = Partitions { rules: Rules::ALL, faults };
        assert_eq!(broken(model), None, "{faults:?}");
        assert_eq!(endless_run(&model), None, "{faults:?}");
    }
}

#[test]
fn a_late_read_without_a_fence_takes_entries_from_the_present_owner() {
    assert_is_needed(|rules| rules.fenced_reads = false, IN_ORDER);
}

#[test]
fn a_read_that_is_executed_after_the_next_claim_is_overtaken() {
    assert_is_needed(|rules| rules.numbered_claims = false, IN_ORDER);
}

#[test]
fn a_late_release_without_a_token_releases_a_later_lease() {
    assert_is_needed(|rules| rules.fenced_release = false, ONE);
}

#[test]
fn new_entries_that_are_read_before_what_is_pending_overtake_it() {
    assert_is_needed(|rules| rules.claims_first = false, IN_ORDER);
}

#[test]
fn what_a_lost_answer_contained_is_overtaken_if_it_is_not_claimed() {
    assert_is_needed(|rules| rules.claims_after_doubt = false, IN_ORDER);
}

#[test]
fn a_consumer_that_does_not_watch_its_clock_handles_what_is_another_ones() {
    assert_is_needed(|rules| rules.watches_the_clock = false, ONE);
}

#[test]
fn a_lease_that_comes_back_after_its_end_continues_behind_what_was_dropped() {
    assert_is_needed(|rules| rules.end_is_final = false, IN_ORDER);
}

#[test]
fn what_is_dropped_while_the_next_lease_begins_is_not_read_again() {
    assert_is_needed(|rules| rules.drains_first = false, DONE);
}

#[test]
fn a_partition_that_is_released_while_a_handler_runs_has_two() {
    assert_is_needed(|rules| rules.drains_last = false, ONE);
}

#[test]
fn a_lease_that_is_released_late_must_not_begin_again() {
    assert_is_needed(|rules| rules.leaving_is_final = false, ONE);
}
