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
    let query = WaitQuery {
        from: Utc::now() - TimeDelta::hours(3),
        period: Duration::from_secs(60 * 60),
        periods: 3,
        each: 2,
        backends: Vec::new(),
        most_read: 0,
    };
    let mut waits = fixture.store().sample_waits(query).await.unwrap();
    waits.sort_unstable_by(|one, other| one.backend.cmp(&other.backend));
    let seconds = |wait: &Wait| (wait.published_at - wait.due_at).num_seconds();
    let found: Vec<(&str, i64)> = waits.iter().map(|wait| (&*wait.backend, seconds(wait))).collect();
    assert!(matches!(found[..], [("first", 1799..=1801), ("later", 0..=2), ("second", 1799..=1801)]), "{found:?}");
}

pub(super) async fn a_rare_backend_has_a_sample_of_its_own_next_to_a_frequent_one<F: Fixture>() {
    let fixture = F::fresh().await;
    const HOUR: i64 = 60 * 60 * 1000;
    let published = |created_ms: i64, lane: &str| {
        TestRow::new()
            .at(created_ms)
            .lane(lane)
            .status("published")
            .with("created_at", fixture.time(created_ms))
            .with("published_at", fixture.time(created_ms + 1_000))
    };
    // In each of two hours: six of the frequent one, then one of the rare one, then one more.
    for hour in [-3 * HOUR / 2, -HOUR / 2] {
        for n in 0..6 {
            fixture.execute(&published(hour + n, "frequent").insert_sql(&fixture)).await;
        }
        fixture.execute(&published(hour + 6, "rare").insert_sql(&fixture)).await;
        fixture.execute(&published(hour + 7, "").insert_sql(&fixture)).await;
        // It would be in the sample, if it were published.
        let waiting = TestRow::new().lane("rare").with("created_at", fixture.time(hour));
        fixture.execute(&waiting.insert_sql(&fixture)).await;
    }
    let sample = async |backends: &[&str], most_read: u32| {
        let query = WaitQuery {
            from: Utc::now() - TimeDelta::hours(2),
            period: Duration::from_secs(60 * 60),
            periods: 2,
            each: 2,
            backends: backends.iter().map(|&name| name.to_owned()).collect(),
            most_read,
        };
        let waits = fixture.store().sample_waits(query).await.unwrap();
        let mut names: Vec<String> = waits.into_iter().map(|wait| wait.backend).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(sample(&["rare"], 100).await, ["rare"; 2]);
    assert_eq!(sample(&["rare", ""], 100).await, ["", "", "rare", "rare"]);
    assert_eq!(sample(&["frequent"], 100).await, ["frequent"; 4], "the first two of each hour");
    assert_eq!(sample(&["rare"], 6).await, Vec::<String>::new(), "no more is read than the query allows");
    assert_eq!(sample(&["nowhere"], 100).await, Vec::<String>::new());
}
