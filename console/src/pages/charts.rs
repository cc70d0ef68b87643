//! The overview's charts: throughput, latency and age of events.

use actix_outbox::StoreError;
use actix_outbox::admin::BackendStatus;
use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use super::chart::{Chart, Series, Unit};
use super::format::number;
use super::layout::PageLayout;
use crate::requests::text;
use crate::responses::Overview;
use crate::single_flight::CachedValue;
use crate::timeline::{Period, SAMPLED, TimeRange, Timeline};

/// Which charts an address asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct ChartQuery {
    pub(super) range: TimeRange,
    /// A publisher's name; none: all.
    #[serde(deserialize_with = "text")]
    pub(super) backend: Option<String>,
}

impl ChartQuery {
    fn address(&self, layout: &PageLayout, range: TimeRange) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("range", range.name());
        query.extend_pairs(self.backend.iter().map(|backend| ("backend", backend)));
        layout.link(&format!("/?{}", query.finish()))
    }
}

fn title(range: TimeRange) -> (&'static str, &'static str) {
    match range {
        TimeRange::Hour => ("Last hour", "minute"),
        TimeRange::Day => ("Last day", "hour"),
        TimeRange::Month => ("Last 30 days", "six hours"),
    }
}

/// The section of the page, which refreshes itself.
pub(super) fn section(
    layout: &PageLayout,
    query: &ChartQuery,
    timeline: &CachedValue<Timeline, StoreError>,
    overview: Option<&Overview>,
) -> Markup {
    let every = if timeline.answer.is_some() { "every 15s" } else { "every 2s" };
    html! {
        section id="charts" aria-label="Charts" hx-get=(query.address(layout, query.range)) hx-select="#charts"
            hx-swap="outerHTML" hx-trigger=(every) {
            h2 { "Over time" }
            (selection(layout, query, overview))
            @if let Some(error) = &timeline.failure {
                p class="notice bad" role="alert" { "Charts may be out of date: " (error) }
            }
            @if let Some(timeline) = &timeline.answer {
                div class="charts" { @for chart in charts(query, timeline, overview) { (chart.draw()) } }
            } @else if timeline.failure.is_none() {
                p class="notice" role="status" { "Reading the history; the charts appear in a moment." }
                noscript { p { a href=(query.address(layout, query.range)) { "Reload" } } }
            }
        }
    }
}

fn selection(layout: &PageLayout, query: &ChartQuery, overview: Option<&Overview>) -> Markup {
    let backends: &[BackendStatus] = overview.map_or(&[], |overview| &overview.backends);
    html! {
        div class="actions" {
            nav class="choice" aria-label="Time of the charts" {
                @for range in TimeRange::ALL {
                    a href=(query.address(layout, range)) aria-current=[(range == query.range).then_some("true")] { (title(range).0) }
                }
            }
            @if backends.len() > 1 || query.backend.is_some() {
                form class="choice" method="get" action=(layout.link("/")) {
                    input type="hidden" name="range" value=(query.range.name());
                    label { "Backend"
                        select name="backend" {
                            option value="" { "all" }
                            @for backend in backends {
                                option value=(backend.name) selected[query.backend.as_ref() == Some(&backend.name)] { (backend.name) }
                            }
                        }
                    }
                    button { "Show" }
                }
            }
        }
    }
}

/// Since when the first waiting event of the backend, or of all, has been due.
fn oldest_due(overview: &Overview, backend: Option<&str>) -> Option<DateTime<Utc>> {
    let is_meant = |status: &&BackendStatus| backend.is_none_or(|backend| backend == status.name);
    let seconds = overview.backends.iter().filter(is_meant).filter_map(|status| status.oldest_due_seconds);
    let oldest = seconds.fold(0.0, f64::max);
    let age = TimeDelta::try_milliseconds((oldest * 1_000.0) as i64)?;
    (oldest > 0.0).then(|| overview.counted_at.checked_sub_signed(age)).flatten()
}

fn charts(query: &ChartQuery, timeline: &Timeline, overview: Option<&Overview>) -> [Chart; 3] {
    let backend = query.backend.as_deref();
    let periods = timeline.periods(overview.and_then(|overview| oldest_due(overview, backend)));
    let series = |name, class, value: fn(&Period) -> Option<f64>| Series {
        name,
        class,
        values: periods.iter().map(value).collect(),
    };
    let from = periods.first().map(|period| period.began_at).unwrap_or_default();
    let (step, _) = timeline.range().periods();
    let (_, period) = title(timeline.range());
    let among = match backend {
        Some(_) => format!("of this backend among the first {} that were", number(timeline.range().most_read())),
        None => "that were".to_owned(),
    };
    [
        Chart {
            id: "throughput",
            title: "Throughput",
            caption: format!("Events by {period}, at the time at which workers recorded them."),
            unit: Unit::Events,
            is_stacked: true,
            series: vec![
                series("published", "published", |period| Some(period.published as f64)),
                series("rejected", "rejected", |period| Some(period.rejected as f64)),
                series("failed", "failed", |period| Some(period.failed as f64)),
            ],
            from,
            step,
            if_empty: html! {
                "Nothing was published, rejected or failed. Workers record this once a minute: if events are due, see whether "
                "a worker is alive, or start one: " code { "outbox worker" }
            },
        },
        Chart {
            id: "latency",
            title: "Latency",
            caption: format!(
                "From the time when an event was due until it was published: of up to {SAMPLED} published events {among} \
                 created in the same {period}. A replayed event counts from its first time."
            ),
            unit: Unit::Seconds,
            is_stacked: false,
            series: vec![
                series("slowest", "slowest", |period| period.slowest),
                series("median", "median", |period| period.median),
            ],
            from,
            step,
            if_empty: html! {
                "No published event of this time is among those that were read. Events that are deleted as soon as they are done are not "
                "measured here; the metric " code { "outbox_delivery_latency_seconds" } " is."
            },
        },
        Chart {
            id: "age",
            title: "Age",
            caption: format!(
                "For how long the oldest event that is known to have waited had been due, at the end of every {period}: \
                 one of those for the latency, or one that waits now."
            ),
            unit: Unit::Seconds,
            is_stacked: false,
            series: vec![series("oldest", "oldest", |period| period.oldest)],
            from,
            step,
            if_empty: html! { "No event is known to have waited at the end of any " (period) "." },
        },
    ]
}
