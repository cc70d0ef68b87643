//! Events that are released unsent are not overtaken by later ones of their key.

use super::*;
use crate::fixtures;
use crate::store::FetchedRow;
use crate::system::credit::Credit;
use crate::system::delivery::Delivery;

fn admit(fetch: &mut Fetch, rows: Vec<FetchedRow>) -> Vec<Delivery> {
    fetch.questions(&rows, BootInstant::now(), true);
    admit_as_asked(fetch, rows)
}

fn admit_as_asked(fetch: &Fetch, rows: Vec<FetchedRow>) -> Vec<Delivery> {
    let credit = Credit::new(100, 1 << 20, Arc::default());
    fetch.admit(rows, &HashMap::new(), |_| credit.take(0)).deliveries
}

fn open_flight() -> Arc<InFlight> {
    let in_flight = InFlight::new(LaneName::from(""));
    in_flight.open(0, 1);
    in_flight
}

#[test]
fn an_event_that_comes_back_unsent_is_not_overtaken_by_one_that_is_queued() {
    let in_flight = open_flight();
    let mut deliveries =
        admit(&mut in_flight.begin_fetch(), vec![fixtures::fetched(0, 1, "k"), fixtures::fetched(0, 2, "k")]);
    drop(deliveries.remove(0));
    assert!(!deliveries[0].is_current(), "the later event would be sent first");
}

#[test]
fn an_event_released_unsent_is_not_overtaken_by_one_being_fetched() {
    let in_flight = open_flight();
    let first = admit(&mut in_flight.begin_fetch(), vec![fixtures::fetched(0, 1, "k")]);
    let mut fetch = in_flight.begin_fetch();
    let later = vec![fixtures::fetched(0, 2, "k")];
    assert!(
        fetch.questions(&later, BootInstant::now(), true)[0].except.contains(&(first[0].id, 1)),
        "the database is not queried for it"
    );
    drop(first);
    assert!(admit_as_asked(&fetch, later).is_empty(), "the later event would be sent first");
    drop(fetch);
    assert_eq!(in_flight.take_rewinds()[&0].seq, 1, "both are read again");
}

#[test]
fn an_event_behind_one_released_during_a_fetch_waits_for_the_next_fetch() {
    let in_flight = open_flight();
    let (first, later) = (fixtures::fetched(0, 1, "k"), fixtures::fetched(0, 2, "k"));
    let mut deliveries = admit(&mut in_flight.begin_fetch(), vec![first, later.clone()]);
    let mut refused = deliveries.remove(0);
    // Its handler rejects it, and only the database still knows: the later event waits behind it.
    refused.accept();
    refused.reject();
    refused.settled(true);
    let mut fetch = in_flight.begin_fetch();
    assert!(fetch.questions(std::slice::from_ref(&later), BootInstant::now(), true).is_empty(), "it is in flight");
    drop(deliveries);
    assert!(admit_as_asked(&fetch, vec![later.clone()]).is_empty(), "its predecessors were not queried");
    assert_eq!(in_flight.take_rewinds()[&0], later.position, "it is read again");
    drop(fetch);
    assert_eq!(admit(&mut in_flight.begin_fetch(), vec![later]).len(), 1);
}
