use std::time::Duration;

use super::Fixture;
use crate::store::{Chapter, Outcomes, Span};

const HOUR: Duration = Duration::from_secs(60 * 60);

fn outcomes(published: u64, rejected: u64, failed: u64) -> Outcomes {
    Outcomes { published, rejected, failed }
}

fn summed(chapters: &[Chapter], backend: &str) -> Outcomes {
    chapters.iter().filter(|chapter| chapter.backend == backend).fold(Outcomes::default(), |sum, chapter| Outcomes {
        published: sum.published + chapter.outcomes.published,
        rejected: sum.rejected + chapter.outcomes.rejected,
        failed: sum.failed + chapter.outcomes.failed,
    })
}

pub(super) async fn what_became_of_events_is_added_up_by_minute_and_by_hour<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let told = [("a".to_owned(), outcomes(5, 2, 1)), ("b".to_owned(), outcomes(7, 0, 0))];
    store.add_to_history(&told).await.unwrap();
    store.add_to_history(&told[..1]).await.unwrap();
    for span in Span::ALL {
        // Two, where a minute or an hour began in between.
        let chapters = store.history(span, 2 * HOUR).await.unwrap();
        assert_eq!([summed(&chapters, "a"), summed(&chapters, "b")], [outcomes(10, 4, 2), outcomes(7, 0, 0)]);
        assert!(chapters.iter().filter(|chapter| chapter.backend == "b").count() == 1, "{chapters:?}");
        let width = i64::from(span.minutes()) * 60;
        assert!(chapters.iter().all(|chapter| chapter.began_at.timestamp_micros() % (width * 1_000_000) == 0));
        assert!(chapters.is_sorted_by_key(|chapter| chapter.began_at));
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
    let left = async |span: Span| summed(&store.history(span, 100 * 24 * HOUR).await.unwrap(), "old").published;
    assert_eq!((left(Span::Minute).await, left(Span::Hour).await), (0, 1));
    assert_eq!(store.history(Span::Hour, 24 * HOUR).await.unwrap().len(), 1);
}
