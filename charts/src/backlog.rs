//! The cost of an event by the length of the backlog.

use std::path::Path;

use plotters::prelude::*;

use crate::run::Run;
use crate::style::{INK, OURS, WIDTH, text};

const HEIGHT: u32 = 320;

/// The short backlog that each run measures in addition to its long one, in millions of events.
const SHORT: f64 = 0.1;

pub(crate) fn draw(runs: &[Run], path: &Path) -> anyhow::Result<bool> {
    let micros = |rate: f64| 1e6 / rate;
    let mut points: Vec<(f64, f64)> = runs
        .iter()
        .flat_map(|run| {
            let length = run.figure("backlog.events").map(|events| events / 1e6);
            let long = length.zip(run.figure("backlog.long").map(micros));
            [run.figure("backlog.short").map(|rate| (SHORT, micros(rate))), long]
        })
        .flatten()
        .collect();
    points.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let Some((longest, _)) = points.last().copied() else { return Ok(false) };
    let most = points.iter().map(|(_, cost)| *cost).fold(0.0, f64::max);
    let root = SVGBackend::new(path, (WIDTH, HEIGHT)).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..longest * 1.05, 0.0..most * 1.3)?;
    chart
        .configure_mesh()
        .axis_style(INK)
        .bold_line_style(INK.mix(0.25))
        .light_line_style(INK.mix(0.0))
        .label_style(text(14))
        .axis_desc_style(text(15))
        .x_desc("events in the table, millions")
        .y_desc("µs for each event")
        .draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), OURS.stroke_width(2)))?;
    chart.draw_series(points.into_iter().map(|point| Circle::new(point, 5, OURS.filled())))?;
    root.present()?;
    Ok(true)
}
