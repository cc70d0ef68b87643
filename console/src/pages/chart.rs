//! A bar chart of outcomes over time.

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};

use super::format::grouped;
use crate::responses::Outcome;

const WIDTH: i32 = 900;
const HEIGHT: i32 = 140;
const FOOT: i32 = 18;

pub(super) struct Bars<'a> {
    pub(super) outcomes: &'a [Outcome],
    /// The start of the last bar.
    pub(super) until: DateTime<Utc>,
    pub(super) step: TimeDelta,
    pub(super) count: i32,
}

pub(super) fn draw(bars: &Bars<'_>) -> Markup {
    let from = bars.until - bars.step * (bars.count - 1);
    let shown: Vec<&Outcome> = bars.outcomes.iter().filter(|one| (from..=bars.until).contains(&one.began_at)).collect();
    let sum = |count_of: fn(&Outcome) -> u64| shown.iter().map(|one| count_of(one)).sum::<u64>();
    let all = [sum(|one| one.published), sum(|one| one.rejected), sum(|one| one.failed)].map(number);
    let label = format!("{} published, {} rejected, {} failed", grouped(all[0]), grouped(all[1]), grouped(all[2]));
    let most = shown.iter().map(|one| one.published + one.rejected + one.failed).max().unwrap_or(0).max(1);
    html! {
        svg class="chart" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(label) {
            @for one in &shown {
                @let place = (one.began_at - from).num_seconds() / bars.step.num_seconds().max(1);
                (bar(one, i32::try_from(place).unwrap_or(0), bars.count, most))
            }
            text x="6" y="14" { "max " (grouped(number(most))) }
            text x="6" y=(HEIGHT - 5) { (from.format("%m-%d %H:%M")) }
            text x=(WIDTH - 6) y=(HEIGHT - 5) text-anchor="end" { (bars.until.format("%m-%d %H:%M")) " UTC" }
        }
        p class="soft" { (label) }
    }
}

/// One bar: published events at the bottom, failed ones on top.
fn bar(one: &Outcome, place: i32, count: i32, most: u64) -> Markup {
    let width = f64::from(WIDTH) / f64::from(count.max(1));
    let height = |events: u64| f64::from(HEIGHT - FOOT - 20) * events as f64 / most as f64;
    let mut top = f64::from(HEIGHT - FOOT);
    html! {
        @for (class, events) in [("published", one.published), ("rejected", one.rejected), ("failed", one.failed)] {
            @if events > 0 {
                @let tall = height(events).max(1.0);
                @let y = { top -= tall; top };
                rect class=(class) x=(format!("{:.1}", f64::from(place) * width + 1.0)) y=(format!("{y:.1}"))
                    width=(format!("{:.1}", width - 2.0)) height=(format!("{tall:.1}")) {}
            }
        }
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
