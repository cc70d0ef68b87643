use std::time::Duration;

use super::Fixture;
use crate::store::{HistoryBucket, OutcomeCounts, Resolution};

const HOUR: Duration = Duration::from_secs(60 * 60);

fn outcomes(published: u64, rejected: u64, failed: u64) -> OutcomeCounts {
    OutcomeCounts { published, rejected, failed }
}

fn summed(buckets: &[HistoryBucket], backend: &str) -> OutcomeCounts {
    buckets.iter().filter(|bucket| bucket.backend == backend).fold(OutcomeCounts::default(), |sum, bucket| {
        OutcomeCounts {
            published: sum.published + bucket.outcomes.published,
            rejected: sum.rejected + bucket.outcomes.rejected,
            failed: sum.failed + bucket.outcomes.failed,
        }
    })
}

pub(super) async fn what_became_of_events_is_added_up_by_minute_and_by_hour<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let told = [("a".to_owned(), outcomes(5, 2, 1)), ("b".to_owned(), outcomes(7, 0, 0))];
    store.add_to_history(&told).await.unwrap();
    store.add_to_history(&told[..1]).await.unwrap();
    for span in Resolution::ALL {
        // Two buckets, if a minute or an hour began in between.
        let buckets = store.history(span, 2 * HOUR).await.unwrap();
        assert_eq!([summed(&buckets, "a"), summed(&buckets, "b")], [outcomes(10, 4, 2), outcomes(7, 0, 0)]);
        assert!(buckets.iter().filter(|bucket| bucket.backend == "b").count() == 1, "{buckets:?}");
        let width = i64::from(span.minutes()) * 60;
        assert!(buckets.iter().all(|bucket| bucket.began_at.timestamp_micros() % (width * 1_000_000) == 0));
        assert!(buckets.is_sorted_by_key(|bucket| bucket.began_at));
    }
}

pub(super) async fn history_ends_after_a_day_by_minute_and_thirty_by_hour<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    for (span, days) in [(1, "2"), (60, "2"), (60, "31")] {
        let began_at = fixture.time(-days.parse::<i64>().unwrap() * 24 * 60 * 60 * 1000);
        let row = format!("({span}, {began_at}, 'old', 1, 0, 0)");
        fixture
            .execute(&format!(
                "INSERT INTO outbox_history (span, began_at, backend, published, rejected, failed) VALUES {row}"
            ))
            .await;
    }
    store.add_to_history(&[("a".to_owned(), outcomes(1, 0, 0))]).await.unwrap();
    let left = async |span: Resolution| summed(&store.history(span, 100 * 24 * HOUR).await.unwrap(), "old").published;
    assert_eq!((left(Resolution::Minute).await, left(Resolution::Hour).await), (0, 1));
    assert_eq!(store.history(Resolution::Hour, 24 * HOUR).await.unwrap().len(), 1);
}
