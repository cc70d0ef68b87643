//! The latency from the commit to the entry in the stream, on a logarithmic scale.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::run::{Run, figure};
use crate::style::{INK, LATE, OURS, WIDTH, text};

const KINDS: &[(&str, &str)] = &[
    ("same_process.200", "same process, 200/s"),
    ("same_process.2000", "same process, 2,000/s"),
    ("other_process.200", "another process, 200/s"),
    ("other_process.2000", "another process, 2,000/s"),
    ("polling.200", "polling alone, 200/s"),
    ("polling.2000", "polling alone, 2,000/s"),
];
const ROW: i32 = 44;
const LABELS: i32 = 190;
const MARGIN: i32 = 60;
const TOP: i32 = 40;

/// The scale's start and end in milliseconds.
const FROM: f64 = 0.1;
const TO: f64 = 1_000.0;

pub(crate) fn draw(runs: &[Run], path: &Path) -> anyhow::Result<bool> {
    let kinds: Vec<_> = KINDS
        .iter()
        .filter_map(|(kind, says)| {
            let of = |part: &str| figure(runs, &format!("latency.{kind}.{part}"));
            Some((*says, [of("p50")?, of("p90")?, of("p99")?, of("max")?]))
        })
        .collect();
    if kinds.is_empty() {
        return Ok(false);
    }
    let bottom = TOP + i32::try_from(kinds.len())? * ROW;
    let root = SVGBackend::new(path, (WIDTH, (bottom + 40) as u32)).into_drawing_area();
    root.draw(&Text::new("from the commit to the entry, ms: p50 ●, p90 to p99 ▬, max │", (8, 8), text(16)))?;
    for ms in [0.1, 1.0, 10.0, 100.0, 1_000.0] {
        let line = vec![(place(ms), TOP), (place(ms), bottom)];
        root.draw(&PathElement::new(line, INK.mix(0.35)))?;
        root.draw(&Text::new(
            format!("{ms}"),
            (place(ms), bottom + 8),
            text(14).pos(Pos::new(HPos::Center, VPos::Top)),
        ))?;
    }
    for ((says, [p50, p90, p99, max]), top) in kinds.into_iter().zip((TOP..).step_by(ROW as usize)) {
        let middle = top + ROW / 2;
        let label = text(15).pos(Pos::new(HPos::Right, VPos::Center));
        root.draw(&Text::new(says, (LABELS - 12, middle), label))?;
        root.draw(&PathElement::new(vec![(place(p50), middle), (place(max), middle)], OURS))?;
        root.draw(&Rectangle::new([(place(p90), middle - 6), (place(p99), middle + 6)], OURS.mix(0.6).filled()))?;
        root.draw(&Circle::new((place(p50), middle), 6, OURS.filled()))?;
        root.draw(&PathElement::new(vec![(place(max), middle - 9), (place(max), middle + 9)], LATE.stroke_width(3)))?;
    }
    root.present()?;
    Ok(true)
}

fn place(ms: f64) -> i32 {
    let part = (ms.clamp(FROM, TO) / FROM).log10() / (TO / FROM).log10();
    LABELS + (part * f64::from(WIDTH as i32 - LABELS - MARGIN)) as i32
}
