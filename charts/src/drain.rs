//! A worker's throughput when it drains a backlog, compared with the servers' own.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::run::{Run, figure};
use crate::style::{LIMIT, OURS, WIDTH, grouped, text};

/// The bars, from the top: a figure, its description, and whether it is a limit.
const BARS: &[(&str, &str, bool)] = &[
    ("xadd", "XADD alone", true),
    ("limit.all", "fetch and update alone, all connections", true),
    ("limit.one", "fetch and update alone, one connection", true),
    ("drain", "a worker", false),
    ("drain.keys", "a worker, 1,000 keys", false),
    ("drain.backends", "a worker, three backends", false),
    ("limit.large", "16 KiB each: fetch and update alone", true),
    ("drain.large", "16 KiB each: a worker", false),
];
const ROW: i32 = 34;
const LABELS: i32 = 290;
const VALUES: i32 = 80;

pub(crate) fn draw(runs: &[Run], path: &Path) -> anyhow::Result<bool> {
    let bars: Vec<_> =
        BARS.iter().filter_map(|(name, says, limit)| Some((says, *limit, figure(runs, name)?))).collect();
    let most = bars.iter().map(|(.., value)| *value).fold(0.0, f64::max);
    if most <= 0.0 {
        return Ok(false);
    }
    let height = u32::try_from(bars.len())? * ROW as u32 + 44;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.draw(&Text::new("events a second", (8, 8), text(16)))?;
    let room = WIDTH as i32 - LABELS - VALUES;
    for ((says, limit, value), top) in bars.into_iter().zip((36..).step_by(ROW as usize)) {
        let middle = top + ROW / 2 - 4;
        let label = text(15).pos(Pos::new(HPos::Right, VPos::Center));
        root.draw(&Text::new((*says).to_owned(), (LABELS - 12, middle), label))?;
        let length = (value / most * f64::from(room)) as i32;
        let colour = if limit { LIMIT } else { OURS };
        root.draw(&Rectangle::new([(LABELS, top), (LABELS + length.max(1), top + ROW - 10)], colour.filled()))?;
        let beside = text(15).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw(&Text::new(grouped(value), (LABELS + length + 8, middle), beside))?;
    }
    root.present()?;
    Ok(true)
}
