use super::*;
use crate::settings::DatabaseSettings;
use crate::store::conformance::Fixture;
use crate::store::postgres::Target;
use crate::store::postgres::fixture::PostgresFixture;
use crate::store::{Heartbeat, SchemaStore, Store};
use crate::test_support::pooler::Pooler;
use crate::test_support::proxy::{Passage, Proxy};
use crate::test_support::{PATIENCE, eventually};

const READER: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);

fn port(fixture: &PostgresFixture) -> u16 {
    url::Url::parse(&fixture.database.url).unwrap().port().unwrap()
}

/// The same database at another port.
fn store_at(fixture: &PostgresFixture, port: u16) -> PostgresStore {
    let mut url = url::Url::parse(&fixture.database.url).unwrap();
    url.set_port(Some(port)).unwrap();
    PostgresStore::new(Target::from_url(url.as_str()).unwrap(), None).unwrap()
}

#[tokio::test]
async fn what_others_announce_of_this_outbox_is_heard_and_nothing_else() {
    let fixture = PostgresFixture::fresh().await;
    let store = store_at(&fixture, port(&fixture));
    let outbox = store.outbox_id().await.unwrap();
    let mut subscription = store.subscribe(outbox, READER, Duration::ZERO).await.unwrap();
    NotifyStore::announce(&store, Uuid::from_u128(3), OTHER, &Wakeup::EveryLane).await.unwrap();
    NotifyStore::announce(&store, outbox, READER, &Wakeup::from_iter(["own"])).await.unwrap();
    NotifyStore::announce(&store, outbox, OTHER, &Wakeup::from_iter([] as [&str; 0])).await.unwrap();
    NotifyStore::announce(&store, outbox, OTHER, &Wakeup::from_iter(["", "it's"])).await.unwrap();
    let mut heard = Wakeup::default();
    while !(heard.is_of("") && heard.is_of("it's")) {
        match subscription.next().await.unwrap() {
            Notification::Wakeup(wakeup) => heard.add(wakeup),
            Notification::LeasesReleased => panic!("no worker released leases"),
        }
    }
    assert_eq!(heard, Wakeup::from_iter(["", "it's"]));
}

#[tokio::test]
async fn a_worker_that_releases_leases_or_leaves_tells_the_others() {
    let fixture = PostgresFixture::fresh().await;
    let store = store_at(&fixture, port(&fixture));
    let outbox = store.outbox_id().await.unwrap();
    let mut subscription = store.subscribe(outbox, READER, Duration::ZERO).await.unwrap();
    let mut leases = store.leases();
    let beat = Heartbeat {
        worker: OTHER,
        name: "other".to_owned(),
        backends: r#"{"orders": "ok"}"#.to_owned(),
        handlers: "[]".to_owned(),
        lanes: vec!["orders".into()],
        held: Vec::new(),
        extends: true,
        lease: PATIENCE,
    };
    leases.beat(&beat).await.unwrap();
    let held = leases.acquire(OTHER, &beat.lanes[0], 2, beat.lease).await.unwrap();
    leases.release(OTHER, &held).await.unwrap();
    assert_eq!(subscription.next().await.unwrap(), Notification::LeasesReleased);
    leases.leave(OTHER).await.unwrap();
    assert_eq!(subscription.next().await.unwrap(), Notification::LeasesReleased);
}

#[tokio::test]
async fn a_subscription_that_hears_nothing_through_a_pooler_is_refused_for_good() {
    let fixture = PostgresFixture::fresh().await;
    let pooler = Pooler::to(port(&fixture)).await;
    let store = store_at(&fixture, pooler.port());
    let error = store.subscribe(Uuid::from_u128(3), READER, Duration::ZERO).await.err().unwrap();
    assert!(!error.is_transient() && error.to_string().contains("pooler"), "{error}");
}

#[tokio::test]
async fn at_an_address_of_its_own_a_subscription_hears_what_is_sent_through_a_pooler() {
    let fixture = PostgresFixture::fresh().await;
    let pooler = Pooler::to(port(&fixture)).await;
    let settings = |listen: &str| {
        let mut through = url::Url::parse(&fixture.database.url).unwrap();
        through.set_port(Some(pooler.port())).unwrap();
        DatabaseSettings {
            url: through.as_str().into(),
            listen_url: Some(listen.into()),
            schema: Some("public".to_owned()),
            ..DatabaseSettings::default()
        }
    };
    let store = crate::store::connect(&settings(&fixture.database.url)).unwrap();
    let (store, outbox) = (store.notify_store().unwrap(), Uuid::from_u128(3));
    let mut subscription = store.subscribe(outbox, READER, Duration::ZERO).await.unwrap();
    store.announce(outbox, OTHER, &Wakeup::EveryLane).await.unwrap();
    assert_eq!(subscription.next().await.unwrap(), Notification::Wakeup(Wakeup::EveryLane));

    let other = PostgresFixture::fresh().await;
    for wrong in [other.database.url.clone(), settings("").url.as_text().unwrap().to_owned()] {
        let store = crate::store::connect(&settings(&wrong)).unwrap();
        let subscribed = store.notify_store().unwrap().subscribe(outbox, READER, Duration::ZERO).await;
        let error = subscribed.err().unwrap();
        assert!(!error.is_transient() && error.to_string().contains("database.listen_url"), "{error}");
    }
}

#[tokio::test]
async fn a_subscription_whose_connection_has_gone_silent_ends() {
    let fixture = PostgresFixture::fresh().await;
    let proxy = Proxy::to(port(&fixture)).await;
    let store = store_at(&fixture, proxy.port());
    let outbox = Uuid::from_u128(3);
    let mut subscription = store.subscribe(outbox, READER, Duration::ZERO).await.unwrap();
    // The only connection with replies is now the one that listens: from now on it is silent.
    let before = proxy.replies();
    proxy.set(Passage::LoseReplies);
    NotifyStore::announce(&store_at(&fixture, port(&fixture)), outbox, OTHER, &Wakeup::EveryLane).await.unwrap();
    eventually("the wake-up is lost", PATIENCE, async || proxy.replies() > before).await;
    proxy.set(Passage::Open);
    let error = loop {
        if let Err(error) = subscription.next().await {
            break error;
        }
    };
    assert!(error.is_transient(), "another try may pass: {error}");
}
