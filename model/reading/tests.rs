//! Every event that can be sent is read, and each part of reading is needed.

use super::*;
use crate::check::{broken, run_that_breaks};

const FAULTS: Faults = Faults { any: 2, rejections: 2, holds: 1, releases: 2, failed_fetches: 1, takings: 1 };

fn reading(faults: Faults) -> Reading {
    Reading { rules: Rules::ALL, faults }
}

/// Asserts that without this rule the property does not hold.
fn assert_is_needed(off: impl Fn(&mut Rules), faults: Faults, property: &'static str) {
    let mut rules = Rules::ALL;
    off(&mut rules);
    assert!(run_that_breaks(Reading { rules, faults }, property).is_some(), "it holds without: {rules:?}");
}

#[test]
fn whatever_goes_wrong_nothing_waits_for_ever() {
    assert_eq!(broken(reading(FAULTS)), None);
}

#[test]
fn without_a_sweep_what_is_committed_late_is_never_read() {
    assert_is_needed(|rules| rules.sweeps = false, FAULTS, READ);
}

#[test]
fn where_every_look_goes_first_no_sweep_begins() {
    assert_is_needed(|rules| rules.sweep_has_its_turn = false, FAULTS, READ);
}

#[test]
fn without_turns_one_kind_of_reading_has_all_the_room() {
    assert_is_needed(|rules| rules.kinds_take_turns = false, FAULTS, READ);
}

#[test]
fn without_an_overlap_what_is_committed_a_little_late_waits_for_a_sweep() {
    assert_is_needed(|rules| rules.overlaps = false, FAULTS, SOON);
}

#[test]
fn without_rewinding_what_comes_back_unsent_waits_for_a_sweep() {
    assert_is_needed(|rules| rules.rewinds = false, FAULTS, SOON);
}

#[test]
fn without_reading_a_key_again_what_waited_waits_for_a_sweep() {
    assert_is_needed(|rules| rules.rereads_keys = false, FAULTS, SOON);
}

/// With a limit of one: a failed event holds its key, so a retry of the key waits, and each fetch returns that retry.
#[test]
fn retries_that_wait_and_are_read_each_time_keep_others_from_being_read() {
    let faults = Faults { any: 3, rejections: 2, holds: 1, ..Faults::default() };
    assert_eq!(broken(reading(faults)), None);
    assert_is_needed(|rules| rules.excepts_waiting_retries = false, faults, READ);
}

#[test]
fn without_fetching_the_blockers_of_a_key_its_events_wait_for_a_sweep() {
    assert_is_needed(|rules| rules.fetches_blockers = false, FAULTS, SOON);
}

#[test]
fn where_a_failed_fetch_forgets_its_keys_they_wait_for_a_sweep() {
    assert_is_needed(|rules| rules.failed_fetch_keeps_keys = false, FAULTS, SOON);
}
