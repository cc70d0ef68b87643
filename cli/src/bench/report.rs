//! The report of a run.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::figures;
use super::samples::Samples;
use crate::output;

#[derive(Debug, Serialize)]
pub(super) struct BenchReport {
    version: &'static str,
    database: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<String>,
    processors: usize,
    events: u32,
    rounds: u32,
    #[serde(serialize_with = "by_name")]
    figures: Vec<(&'static str, Measured)>,
}

#[derive(Debug, Serialize)]
struct Measured {
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    shares: BTreeMap<&'static str, f64>,
    #[serde(skip)]
    description: &'static str,
}

impl BenchReport {
    pub(super) fn new(events: u32, rounds: u32, database: String, redis: Option<String>, samples: &Samples) -> Self {
        let measured = figures::all().filter_map(|figure| {
            let shares = figure.of.iter().filter_map(|of| Some((*of, samples.share(figure.name, of)?)));
            let value = samples.median(figure.name)?;
            Some((
                figure.name,
                Measured { value, unit: figure.unit, shares: shares.collect(), description: figure.description },
            ))
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            database,
            redis,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            events,
            rounds,
            figures: measured.collect(),
        }
    }

    pub(super) fn print(&self) -> anyhow::Result<()> {
        let Self { version, database, redis, processors, events, rounds, .. } = self;
        let redis = redis.as_ref().map(|version| format!(", Redis {version}")).unwrap_or_default();
        output::line(format_args!(
            "outbox {version}, {database}{redis}; {processors} processors here; {events} events, medians of {rounds}\n"
        ))?;
        let rows = self.figures.iter().map(|(name, measured)| {
            let shares = measured.shares.iter().map(|(of, share)| format!("{:.0} % of {of}", share * 100.0));
            let shares: Vec<String> = shares.collect();
            let value = format!("{:>10}", readable(measured.value));
            vec![
                (*name).to_owned(),
                value,
                measured.unit.to_owned(),
                measured.description.to_owned(),
                shares.join(", "),
            ]
        });
        Ok(output::table(&["FIGURE", "     VALUE", "UNIT", "", "SHARE"], rows)?)
    }
}

fn by_name<S: Serializer>(figures: &[(&'static str, Measured)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(figures.iter().map(|(name, measured)| (name, measured)))
}

/// A small number with its first digits, a large one without decimals.
fn readable(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_named_and_have_a_unit_and_shares() {
        let mut samples = Samples::default();
        samples.record("limit.one", 1_000.0);
        samples.record("drain", 800.0);
        let report = BenchReport::new(10, 1, "PostgreSQL 15.1".to_owned(), Some("7.0.1".to_owned()), &samples);
        let json = serde_json::to_value(&report).unwrap();
        let drain = serde_json::json!({"value": 800.0, "unit": "events/s", "shares": {"limit.one": 0.8}});
        assert_eq!(json["figures"]["drain"], drain);
        assert_eq!(json["figures"]["limit.one"], serde_json::json!({"value": 1000.0, "unit": "events/s"}));
        assert_eq!(json["figures"].as_object().unwrap().len(), 2, "what was not measured is not there");
    }

    #[test]
    fn numbers_are_as_long_as_they_are_meaningful() {
        assert_eq!([123_456.7, 12.34, 0.012_34].map(readable), ["123457", "12.3", "0.0123"]);
    }
}
