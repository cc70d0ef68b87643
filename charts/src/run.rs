//! A run of `outbox bench`, as docs/bench.md describes it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(crate) struct Run {
    figures: BTreeMap<String, Figure>,
}

#[derive(Debug, Deserialize)]
struct Figure {
    value: f64,
}

impl Run {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not what `outbox bench --format json` prints", path.display()))
    }

    pub(crate) fn figure(&self, name: &str) -> Option<f64> {
        self.figures.get(name).map(|figure| figure.value)
    }
}

/// The value of a figure in the first run that has it.
pub(crate) fn figure(runs: &[Run], name: &str) -> Option<f64> {
    runs.iter().find_map(|run| run.figure(name))
}
