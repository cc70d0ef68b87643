//! Globs as Redis knows them.

/// Whether a name is a glob.
pub(super) fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// Whether this name is that of a stream, or Redis finds it by the glob.
pub(crate) fn glob_matches(name_or_glob: &str, name: &str) -> bool {
    if is_glob(name_or_glob) { matches(name_or_glob.as_bytes(), name.as_bytes()) } else { name_or_glob == name }
}

fn matches(glob: &[u8], name: &[u8]) -> bool {
    let (rest, fits): (&[u8], bool) = match glob {
        [] => return name.is_empty(),
        [b'*', rest @ ..] => return (0..=name.len()).any(|n| matches(rest, &name[n..])),
        [b'?', rest @ ..] => (rest, true),
        [b'[', class @ ..] => {
            let (negated, class) = class.strip_prefix(b"^").map_or((false, class), |class| (true, class));
            let (rest, is_in) = in_class(class, name.first().copied());
            (rest, is_in != negated)
        }
        [b'\\', byte, rest @ ..] | [byte, rest @ ..] => (rest, name.first() == Some(byte)),
    };
    fits && !name.is_empty() && matches(rest, &name[1..])
}

/// The glob behind a class, and whether the byte is one of the class. A class without an end ends with the glob.
fn in_class(mut class: &[u8], byte: Option<u8>) -> (&[u8], bool) {
    let mut is_in = false;
    loop {
        class = match class {
            [] => return (class, is_in),
            [b']', rest @ ..] => return (rest, is_in),
            [b'\\', one, rest @ ..] => {
                is_in |= byte == Some(*one);
                rest
            }
            [from, b'-', to, rest @ ..] => {
                is_in |= byte.is_some_and(|byte| (*from.min(to)..=*from.max(to)).contains(&byte));
                rest
            }
            [one, rest @ ..] => {
                is_in |= byte == Some(*one);
                rest
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_as_redis_does() {
        for (glob, names, others) in [
            ("orders", &["orders"][..], &["orders.1", "order"][..]),
            ("orders.*", &["orders.", "orders.1", "orders.a.b"], &["orders", "my.orders.1"]),
            ("*.{eu}.?", &["a.{eu}.1", ".{eu}.x"], &["a.{eu}.", "a.{eu}.12"]),
            ("o[a-cx]*", &["oa", "oc1", "ox"], &["od", "o", "o-"]),
            ("o[^a-c]", &["od", "o["], &["oa", "o"]),
            ("o[c-a]", &["ob"], &["od"]),
            ("o[a\\]]", &["o]", "oa"], &["o\\"]),
            ("o\\*", &["o*"], &["o1"]),
            ("o\\x", &["o\\x"], &["ox"]),
            ("o[ab", &["oa", "ob"], &["o", "o["]),
            ("*", &["", "anything"], &[]),
        ] {
            assert!(names.iter().all(|name| glob_matches(glob, name)), "{glob}: {names:?}");
            assert!(others.iter().all(|name| !glob_matches(glob, name)), "{glob}: {others:?}");
        }
    }
}
