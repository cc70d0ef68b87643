//! The protocol holds, and each of its parts is needed.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use crate::events::Event;
use crate::properties::{IN_ORDER, LEASED, ONCE, TRIED};
use crate::rules::{Faults, Outbox, Rules};

const KEYED: &[Event] = &[Event::Earlier, Event::Later];
const LONE: &[Event] = &[Event::Lone];

/// So many of any kind: two by default, which takes a minute of one core.
fn faults_of_any_kind() -> u8 {
    let wanted = std::env::var("OUTBOX_MODEL_FAULTS").ok();
    wanted.map_or(2, |wanted| wanted.parse().expect("OUTBOX_MODEL_FAULTS is a small number"))
}

#[test]
fn whatever_goes_wrong_every_event_is_published_once_and_in_order() {
    let any = faults_of_any_kind();
    let faults = Faults {
        any,
        crashes: any,
        lost: any,
        expiries: any,
        refusals: any,
        stops: any,
        moves: any,
        looks: any,
        drops: any,
        orders: any,
        replays: 1,
        restores: 0,
    };
    let outbox = Outbox { rules: Rules::ALL, faults, events: &Event::ALL, max_retries: 2 };
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let checker = outbox.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    println!("{} states; the longest run has {} steps", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

#[test]
fn leases_that_were_restored_from_a_backup_do_no_harm() {
    let faults = Faults { any: 1, restores: 1, ..Faults::default() };
    assert_eq!(broken(outbox(Rules::ALL, faults, &Event::ALL)), None);
}

#[test]
fn without_fencing_a_late_batch_is_sent_twice() {
    let faults = Faults { any: 1, lost: 1, ..Faults::default() };
    assert_is_needed(Rules { fencing: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

#[test]
fn without_the_journal_a_lost_answer_sends_twice() {
    let faults = Faults { any: 1, lost: 1, ..Faults::default() };
    assert_is_needed(Rules { journal: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

#[test]
fn without_r1_a_shard_that_comes_back_is_sent_twice() {
    let faults = Faults { any: 2, moves: 2, ..Faults::default() };
    assert_is_needed(Rules { r1: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

#[test]
fn without_r2_a_stale_answer_sends_twice() {
    let faults = Faults { any: 1, looks: 1, ..Faults::default() };
    assert_is_needed(Rules { r2: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

#[test]
fn without_r3_a_key_goes_on_before_its_refused_event() {
    let faults = Faults { any: 1, refusals: 1, ..Faults::default() };
    assert_is_needed(Rules { r3: false, ..Rules::ALL }, outbox(Rules::ALL, faults, KEYED), IN_ORDER);
}

/// A worker accepts an event and loses its shard before it has recorded that; another records it; a person replays it; the other sends
/// the replay and dies; the shard comes back.
#[test]
fn without_waiting_for_what_it_replays_a_replay_is_sent_twice() {
    let faults = Faults { any: 3, crashes: 1, expiries: 1, replays: 1, ..Faults::default() };
    assert_is_needed(Rules { replays_wait: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), ONCE);
}

/// What a dead worker had to say of an event fails it after a person has begun it anew: it is lost without a try.
#[test]
fn without_the_fenced_settle_an_event_is_failed_untried() {
    let faults = Faults { any: 4, crashes: 1, refusals: 2, orders: 1, ..Faults::default() };
    let outbox = Outbox { max_retries: 1, ..outbox(Rules::ALL, faults, LONE) };
    assert_is_needed(Rules { fenced_settle: false, ..Rules::ALL }, outbox, TRIED);
}

/// It costs a lease, and no more: whoever holds it then shuts the other's session out.
#[test]
fn without_fenced_leases_a_late_release_frees_what_was_taken_since() {
    let faults = Faults { any: 2, lost: 1, moves: 1, ..Faults::default() };
    assert_is_needed(Rules { fenced_leases: false, ..Rules::ALL }, outbox(Rules::ALL, faults, LONE), LEASED);
}

/// The statement that records a refusal comes again after a person has begun the event anew, and meets the lease and the count
/// that it names.
#[test]
fn without_the_time_of_the_last_change_a_repeated_refusal_undoes_a_retry_by_a_person() {
    let faults = Faults { any: 3, lost: 1, refusals: 1, orders: 1, ..Faults::default() };
    let outbox = Outbox { max_retries: 1, ..outbox(Rules::ALL, faults, LONE) };
    assert_is_needed(Rules { settled_as_read: false, ..Rules::ALL }, outbox, TRIED);
}

/// With everything on the property holds, and all others too; without the one part it does not.
fn assert_is_needed(without: Rules, outbox: Outbox, property: &'static str) {
    assert_eq!(broken(outbox), None);
    let checker = Outbox { rules: without, ..outbox }.checker();
    let checker = checker.finish_when(HasDiscoveries::AnyOf(BTreeSet::from([property]))).spawn_bfs().join();
    let steps = checker.discovery(property).map(Path::into_actions);
    println!("{property}, but {:#?}", steps.as_deref().unwrap_or_default());
    assert!(steps.is_some(), "it holds without {without:?}");
}

/// A property that does not hold.
fn broken(outbox: Outbox) -> Option<&'static str> {
    let checker = outbox.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    let broken = outbox.properties().into_iter().filter(|property| property.expectation == Expectation::Always);
    broken.map(|property| property.name).find(|name| checker.discovery(name).is_some())
}

fn outbox(rules: Rules, faults: Faults, events: &'static [Event]) -> Outbox {
    Outbox { rules, faults, events, max_retries: 2 }
}
