//! The names of streams of dead letters.

use crate::settings::check::has_hash_tag;

const PLACEHOLDERS: [(&str, Part); 2] = [("{stream}", Part::Stream), ("{group}", Part::Group)];

/// A consumer's `dead_letters`.
pub(super) struct LettersTemplate(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The stream's name; without a hash tag of its own, it becomes one.
    Stream,
    Group,
}

impl LettersTemplate {
    pub(super) fn new(template: &str) -> Self {
        let (mut parts, mut rest) = (Vec::new(), template);
        while !rest.is_empty() {
            let found = PLACEHOLDERS.iter().filter_map(|(name, part)| Some((rest.find(name)?, *name, part)));
            let Some((at, name, part)) = found.min_by_key(|(at, ..)| *at) else {
                parts.push(Part::Text(rest.to_owned()));
                break;
            };
            parts.extend([Part::Text(rest[..at].to_owned()), part.clone()]);
            rest = &rest[at + name.len()..];
        }
        parts.retain(|part| *part != Part::Text(String::new()));
        Self(parts)
    }

    /// Where the dead letters of a stream and a group go.
    pub(super) fn name(&self, stream: &str, group: &str) -> String {
        let tagged = if has_hash_tag(stream) { stream.to_owned() } else { format!("{{{stream}}}") };
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Stream => tagged.clone(),
            Part::Group => group.to_owned(),
        };
        self.0.iter().map(text).collect()
    }

    /// Whether dead letters of some stream and some group have this name.
    pub(super) fn matches(&self, name: &str) -> bool {
        matches(&self.0, name)
    }
}

fn matches(parts: &[Part], name: &str) -> bool {
    let Some((part, rest)) = parts.split_first() else { return name.is_empty() };
    let fits: fn(&str) -> bool = match part {
        Part::Text(text) => return name.strip_prefix(text.as_str()).is_some_and(|behind| matches(rest, behind)),
        Part::Stream => has_hash_tag,
        Part::Group => |group| !group.is_empty(),
    };
    let ends = (1..=name.len()).filter(|end| name.is_char_boundary(*end));
    ends.map(|end| name.split_at(end)).any(|(value, behind)| fits(value) && matches(rest, behind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ConsumerSettings;

    #[test]
    fn dead_letters_are_in_the_slot_of_their_stream() {
        let default = LettersTemplate::new(&ConsumerSettings::default().dead_letters);
        for (stream, expected) in [
            ("events", "{events}:dead:mail{stream}er"),
            ("{events}.3", "{events}.3:dead:mail{stream}er"),
            ("{}", "{{}}:dead:mail{stream}er"),
        ] {
            assert_eq!(default.name(stream, "mail{stream}er"), expected);
            assert!(default.matches(expected));
        }
    }

    #[test]
    fn names_of_dead_letters_are_told_from_those_of_streams() {
        for (template, letters, streams) in [
            (
                "{stream}:dead:{group}",
                &["{a}:dead:m", "{a}.3:dead:m:n"][..],
                &["{a}", "a:dead:m", "{a}:dead:", "{a}:dead"][..],
            ),
            ("{stream}-{group}", &["{my}-events"], &["my-events", "{my}.events"]),
            ("dead:{group}:{stream}", &["dead:m:{a}", "dead:m:n:{a}.b"], &["dead:m:a", "dead::{a}"]),
        ] {
            let template = LettersTemplate::new(template);
            assert!(letters.iter().all(|name| template.matches(name)), "{letters:?}");
            assert!(streams.iter().all(|name| !template.matches(name)), "{streams:?}");
        }
    }
}
