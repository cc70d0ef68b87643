//! Finds the known name that a caller probably meant.

/// The candidate with the fewest differences from `given`, unless all of them differ too much for a typing error.
pub(crate) fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(given, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (given.len().max(candidate.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_near_name_is_suggested() {
        let known = ["batch_size", "poll_interval", "url"];
        assert_eq!(nearest("batchsize", known), Some("batch_size"));
        assert_eq!(nearest("pol_intervall", known), Some("poll_interval"));
        assert_eq!(nearest("ulr", known), Some("url"));
        assert_eq!(nearest("colour", known), None);
    }
}
