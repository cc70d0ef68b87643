//! A bar chart with axes, and the table behind it. A script shows the values of the bar that the reader points at.

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};

use super::format::{grouped, short_time, span, time};

/// In a chart's own unit; the page stretches it.
const HEIGHT: f64 = 100.0;
const BAR: f64 = 10.0;

/// Labels on the axis of time, each at the begin of its part.
const PARTS: usize = 4;

/// What the bars count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Events,
    Seconds,
}

impl Unit {
    pub(super) fn text(self, value: f64) -> String {
        match self {
            Self::Events => grouped(value as i64),
            Self::Seconds => span(value),
        }
    }

    /// A round number that is not below this one, and whose half is round too.
    fn ceiling(self, most: f64) -> f64 {
        let (scale, least) = match self {
            Self::Events => (1.0, 2.0),
            Self::Seconds if most < 60.0 => (1.0, 0.01),
            Self::Seconds if most < 3_600.0 => (60.0, 60.0),
            Self::Seconds if most < 86_400.0 => (3_600.0, 3_600.0),
            Self::Seconds => (86_400.0, 86_400.0),
        };
        let most = most.max(least) / scale;
        let power = 10_f64.powf(most.log10().floor());
        let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
        let step = steps.into_iter().find(|step| step * power >= most * (1.0 - 1e-9)).unwrap_or(10.0);
        step * power * scale
    }
}

/// One sort of bars.
pub(super) struct Series {
    pub(super) name: &'static str,
    /// The class of its colour.
    pub(super) class: &'static str,
    /// The value of each period; none where nothing is known.
    pub(super) values: Vec<Option<f64>>,
}

pub(super) struct Chart {
    /// Its id on the page.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What it shows, in a sentence.
    pub(super) caption: String,
    pub(super) unit: Unit,
    /// Bars are stacked; else later ones are before earlier ones.
    pub(super) is_stacked: bool,
    pub(super) series: Vec<Series>,
    /// When the first period begins, and the length of each.
    pub(super) from: DateTime<Utc>,
    pub(super) step: TimeDelta,
    /// Shown in place of bars if no series has any.
    pub(super) if_empty: Markup,
}

impl Chart {
    fn count(&self) -> usize {
        self.series.first().map_or(0, |series| series.values.len())
    }

    fn is_empty(&self) -> bool {
        self.series.iter().flat_map(|series| &series.values).flatten().all(|value| *value <= 0.0)
    }

    fn began_at(&self, n: usize) -> DateTime<Utc> {
        self.from + self.step * i32::try_from(n).unwrap_or(i32::MAX)
    }

    /// The top of the highest bar.
    fn most(&self) -> f64 {
        let of_period = |n: usize| {
            let values = self.series.iter().filter_map(|series| series.values.get(n).copied().flatten());
            if self.is_stacked { values.sum::<f64>() } else { values.fold(0.0, f64::max) }
        };
        (0..self.count()).map(of_period).fold(0.0, f64::max)
    }

    pub(super) fn draw(&self) -> Markup {
        html! {
            figure class="chart" id=(self.id) {
                figcaption {
                    h3 { (self.title) }
                    ul class="legend" {
                        @for series in &self.series { li { span class={ "swatch " (series.class) } {} (series.name) } }
                    }
                }
                p class="soft" { (self.caption) }
                @if self.is_empty() {
                    div class="notice empty" { (self.if_empty) }
                } @else {
                    (self.plot())
                    (self.table())
                }
            }
        }
    }

    fn plot(&self) -> Markup {
        let ceiling = self.unit.ceiling(self.most());
        let width = BAR * self.count() as f64;
        let part = self.count() / PARTS;
        html! {
            div class="plot" {
                div class="y" aria-hidden="true" {
                    @for value in [ceiling, ceiling / 2.0, 0.0] { span { (self.tick(value)) } }
                }
                svg class="bars" viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                    aria-label={ (self.title) ": " (self.summary()) } {
                    @for y in [0.0, HEIGHT / 2.0, HEIGHT] { line class="grid" x1="0" x2=(width) y1=(y) y2=(y) {} }
                    @for n in 1..PARTS {
                        @let x = BAR * (n * part) as f64;
                        line class="grid" x1=(x) x2=(x) y1="0" y2=(HEIGHT) {}
                    }
                    @for n in 0..self.count() { (self.bar(n, ceiling)) }
                }
                div class="x" aria-hidden="true" {
                    @for n in 0..PARTS { span { (short_time(self.began_at(n * part), self.step)) } }
                }
            }
        }
    }

    fn tick(&self, value: f64) -> String {
        if value == 0.0 { "0".to_owned() } else { self.unit.text(value) }
    }

    fn bar(&self, n: usize, ceiling: f64) -> Markup {
        let mut top = HEIGHT;
        html! {
            @for series in &self.series {
                @if let Some(value) = series.values.get(n).copied().flatten().filter(|value| *value > 0.0) {
                    // Even a single event among thousands is seen.
                    @let tall = (value / ceiling * HEIGHT).max(1.0);
                    @let y = { if !self.is_stacked { top = HEIGHT; } top -= tall; top };
                    rect class=(series.class) x=(BAR * n as f64 + 1.0) width=(BAR - 2.0)
                        y=(format!("{y:.2}")) height=(format!("{tall:.2}")) {}
                }
            }
        }
    }

    /// The chart for readers who do not see it: the highest value of each series, or the sum of what is counted.
    fn summary(&self) -> String {
        let one = |series: &Series| {
            let values = series.values.iter().flatten().copied();
            match self.unit {
                Unit::Events => format!("{} {}", self.unit.text(values.sum()), series.name),
                Unit::Seconds => format!("{} up to {}", series.name, self.unit.text(values.fold(0.0, f64::max))),
            }
        };
        self.series.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// Newest first.
    fn table(&self) -> Markup {
        html! {
            p class="soft" { (self.summary()) }
            details id={ (self.id) "-table" } {
                summary { "Table" }
                div class="wide" tabindex="0" {
                    table {
                        thead { tr {
                            th scope="col" { "From" }
                            @for series in &self.series { th scope="col" class="number" { (series.name) } }
                        } }
                        tbody {
                            @for n in (0..self.count()).rev() {
                                tr {
                                    td { (time(self.began_at(n))) }
                                    @for series in &self.series {
                                        td class="number" {
                                            (series.values.get(n).copied().flatten().map_or_else(|| "–".to_owned(), |value| self.unit.text(value)))
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_with_a_round_number() {
        for (unit, most, ceiling) in [
            (Unit::Events, 0.0, 2.0),
            (Unit::Events, 1.0, 2.0),
            (Unit::Events, 7.0, 8.0),
            (Unit::Events, 100.0, 100.0),
            (Unit::Events, 12_345.0, 20_000.0),
            (Unit::Seconds, 0.0, 0.01),
            (Unit::Seconds, 3.2, 4.0),
            (Unit::Seconds, 61.0, 120.0),
            (Unit::Seconds, 4_000.0, 7_200.0),
            (Unit::Seconds, 100_000.0, 172_800.0),
        ] {
            assert!((unit.ceiling(most) - ceiling).abs() < ceiling / 1e6, "{unit:?} {most}: {}", unit.ceiling(most));
        }
    }
}
