//! The measured values, one for each round.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Samples(BTreeMap<String, Vec<f64>>);

impl Samples {
    pub(super) fn record(&mut self, name: impl Into<String>, value: f64) {
        self.0.entry(name.into()).or_default().push(value);
    }

    pub(super) fn median(&self, name: &str) -> Option<f64> {
        median(self.0.get(name)?.clone())
    }

    /// The median of one figure's share of another in the same round.
    pub(super) fn share(&self, name: &str, of: &str) -> Option<f64> {
        let pairs = self.0.get(name)?.iter().zip(self.0.get(of)?);
        median(pairs.filter(|(_, of)| **of > 0.0).map(|(value, of)| value / of).collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { f64::midpoint(values[middle - 1], upper) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_taken_within_each_round() {
        let mut samples = Samples::default();
        for (drain, limit) in [(50.0, 100.0), (8.0, 10.0), (60.0, 100.0)] {
            samples.record("drain", drain);
            samples.record("limit", limit);
        }
        assert_eq!(samples.share("drain", "limit"), Some(0.6));
        assert_eq!(samples.median("drain"), Some(50.0));
        assert_eq!(samples.share("drain", "nothing"), None);
    }

    #[test]
    fn between_two_middles_the_median_is_their_mean() {
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
