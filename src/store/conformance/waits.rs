use std::time::Duration;

use chrono::{TimeDelta, Utc};

use super::Fixture;
use super::builders::TestRow;
use crate::store::{Wait, WaitQuery};

pub(super) async fn a_sample_of_waits_has_the_first_published_events_of_each_period<F: Fixture>() {
    let fixture = F::fresh().await;
    let published = |created_ms: i64, scheduled_ms: i64, published_ms: i64, lane: &str| {
        TestRow::new()
            .at(scheduled_ms)
            .lane(lane)
            .status("published")
            .with("created_at", fixture.time(created_ms))
            .with("published_at", fixture.time(published_ms))
    };
    const HOUR: i64 = 60 * 60 * 1000;
    for row in [
        published(-5 * HOUR / 2, -5 * HOUR / 2, -2 * HOUR, "first"),
        published(-5 * HOUR / 2 + 1, -5 * HOUR / 2, -2 * HOUR, "second"),
        published(-5 * HOUR / 2 + 2, -5 * HOUR / 2, -2 * HOUR, "third"),
        // Scheduled after it was created.
        published(-3 * HOUR / 2, -HOUR, -HOUR + 1_000, "later"),
        // Neither published nor in a period.
        TestRow::new().lane("pending").with("created_at", fixture.time(-HOUR / 2)),
        published(-9 * HOUR / 2, -9 * HOUR / 2, -4 * HOUR, "before"),
    ] {
        fixture.execute(&row.insert_sql(&fixture)).await;
    }
    let query =
        WaitQuery { from: Utc::now() - TimeDelta::hours(3), period: Duration::from_secs(60 * 60), periods: 3, each: 2 };
    let mut waits = fixture.store().sample_waits(query).await.unwrap();
    waits.sort_unstable_by(|one, other| one.backend.cmp(&other.backend));
    let seconds = |wait: &Wait| (wait.published_at - wait.due_at).num_seconds();
    let found: Vec<(&str, i64)> = waits.iter().map(|wait| (&*wait.backend, seconds(wait))).collect();
    assert!(matches!(found[..], [("first", 1799..=1801), ("later", 0..=2), ("second", 1799..=1801)]), "{found:?}");
}
