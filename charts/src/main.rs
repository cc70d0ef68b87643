//! Draws the figures of `outbox bench --format json` as SVG.
//!
//! ```sh
//! cargo run -p outbox-charts -- docs/charts figures.json …
//! ```
//!
//! With several files, each figure comes from the first file that has it; the backlog's chart has a point from each file.

mod backlog;
mod drain;
mod latency;
mod run;
mod style;

use std::path::Path;

use anyhow::Context;

use crate::run::Run;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("usage: outbox-charts FOLDER FIGURES.json …")?;
    let runs = arguments.map(|path| Run::read(Path::new(&path))).collect::<anyhow::Result<Vec<Run>>>()?;
    anyhow::ensure!(!runs.is_empty(), "no file of figures is given");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {folder}"))?;
    for (name, draw) in [("drain", drain::draw as Chart), ("latency", latency::draw), ("backlog", backlog::draw)] {
        let path = Path::new(&folder).join(name).with_extension("svg");
        let drawn = draw(&runs, &path).with_context(|| format!("cannot draw {}", path.display()))?;
        println!("{}: {}", path.display(), if drawn { "drawn" } else { "nothing was measured for it" });
    }
    Ok(())
}

/// Draws a chart into a file; returns whether it has any figures.
type Chart = fn(&[Run], &Path) -> anyhow::Result<bool>;
