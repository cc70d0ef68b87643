//! The names of a stream's partitions: `{events}.0` to `{events}.31`, all in one slot of a Redis Cluster.
#![allow(dead_code, reason = "the features decide which of them are used")]

use super::check::has_hash_tag;

/// The most partitions of a stream: a lane has as many shards on PostgreSQL.
pub(crate) const MAX_PARTITIONS: u32 = 32;

/// The key of a stream's partition. The stream's name becomes the hash tag, unless it has one of its own.
pub(crate) fn partition_name(stream_name: &str, n: u32) -> String {
    if has_hash_tag(stream_name) { format!("{stream_name}.{n}") } else { format!("{{{stream_name}}}.{n}") }
}

/// The stream and the number of a partition; `None`: the key is not one that [`partition_name`] makes. The streams `events`
/// and `{events}` have the same partitions; the answer is `events`.
pub(crate) fn partition_of(name: &str) -> Option<(&str, u32)> {
    let (tagged, digits) = name.rsplit_once('.')?;
    let n: u32 = digits.parse().ok()?;
    if n >= MAX_PARTITIONS || n.to_string() != digits {
        return None;
    }
    let inside = tagged.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    match inside.filter(|inside| !inside.is_empty() && !inside.contains('}')) {
        Some(stream) => Some((stream, n)),
        None => has_hash_tag(tagged).then_some((tagged, n)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_partition_has_the_streams_hash_tag_or_makes_one_of_its_name() {
        for (stream, expected) in [
            ("events", "{events}.7"),
            ("shop.events", "{shop.events}.7"),
            ("{shop}.events", "{shop}.events.7"),
            ("a{b", "{a{b}.7"),
            ("events.3", "{events.3}.7"),
        ] {
            assert_eq!(partition_name(stream, 7), expected);
            assert_eq!(partition_of(expected), Some((stream, 7)));
        }
        assert_eq!(partition_of("{events}.31"), Some(("events", 31)));
    }

    #[test]
    fn other_keys_are_not_partitions() {
        for name in
            ["", ".", "events", "events.3", "{events}", "{events}.", "{events}.32", "{events}.03", "{events}.+3"]
        {
            assert_eq!(partition_of(name), None, "{name}");
        }
        for name in
            ["{events}.-1", "{events}:dead.x", "{events}:outbox", "{}.3", "{}a.3", "a}.3", "{events}.4294967296"]
        {
            assert_eq!(partition_of(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_partition_names_its_stream(stream in "[a.{}é7]{1,8}", n in 0..MAX_PARTITIONS) {
            prop_assume!(!stream.contains('}') || has_hash_tag(&stream));
            let name = partition_name(&stream, n);
            let (found, number) = partition_of(&name).unwrap();
            prop_assert_eq!((partition_name(found, n), number), (name.clone(), n));
            let tagged = format!("{{{found}}}");
            prop_assert!([found, &tagged].contains(&stream.as_str()));
        }
    }
}
