//! The declaration of a table of settings: each key once, with its type, its default and how its value is read.
//!
//! Tables with a key that has no default, `rate_limit` and `wait_replicas`, are read by hand in `read`.

/// Declares the struct of a table, its defaults, the list of its keys, and its reader.
///
/// `key: Type = default, reader;` A reader gets the value's [`Node`](super::node::Node); its error names the key, the origin
/// and what would be valid. A key that is not given keeps its default.
/// `or other by reader` is another key for the same value.
macro_rules! table {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $(
                $(#[$key_meta:meta])*
                $key:ident: $type:ty = $default:expr, $reader:expr $(, or $other:ident by $other_reader:expr)*;
            )*
        }
    ) => {
        $(#[$meta])*
        #[non_exhaustive]
        pub struct $name {
            $($(#[$key_meta])* pub $key: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        impl $name {
            /// The keys of the table.
            pub(in crate::settings) const KEYS: &'static [&'static str] = &[$(stringify!($key), $(stringify!($other),)*)*];

            pub(in crate::settings) fn read(node: $crate::settings::node::Node<'_>) -> $crate::settings::node::Result<Self> {
                let table = node.table(Self::KEYS)?;
                let mut read = Self::default();
                $(
                    table.read(stringify!($key), &mut read.$key, $reader)?;
                    table.at_most_one_of(&[stringify!($key), $(stringify!($other)),*])?;
                    $(table.read(stringify!($other), &mut read.$key, $other_reader)?;)*
                )*
                Ok(read)
            }
        }
    };
}

pub(super) use table;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::settings::{
        ConsumerSettings, DatabaseSettings, PublisherSettings, RetentionSettings, WebSettings, WorkerSettings,
    };

    const CHAPTER: &str = include_str!("../../docs/configuration.md");

    /// The keys in the chapter's tables below the heading of a table of settings.
    fn documented(heading: &str) -> BTreeSet<&'static str> {
        let (_, section) = CHAPTER.split_once(&format!("\n## `[{heading}]`\n")).unwrap();
        let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
        let keys = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        keys.collect()
    }

    #[test]
    fn the_chapter_has_every_key_and_no_other() {
        for (heading, keys) in [
            ("database", DatabaseSettings::KEYS),
            ("publishers.NAME", PublisherSettings::KEYS),
            ("consumers.NAME", ConsumerSettings::KEYS),
            ("worker", WorkerSettings::KEYS),
            ("retention", RetentionSettings::KEYS),
            ("web", WebSettings::KEYS),
        ] {
            assert_eq!(documented(heading), keys.iter().copied().collect(), "[{heading}]");
        }
    }
}
