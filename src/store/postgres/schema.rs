//! The schema of an outbox, by which its statements name tables and functions.
//!
//! A session's search path is not relied on: a pooler in transaction mode passes a path that one client has set on to others,
//! and a path may lead to the outbox of another schema. So the names in each statement are qualified before it is sent.

/// The functions whose argument is a name in a literal.
const NAME_FUNCTIONS: [&[u8]; 3] = [b"to_regclass(", b"nextval(", b"pg_relation_size("];

/// The beginning of all names of the outbox's tables, sequences, views and functions.
const PREFIX: &[u8] = b"outbox_";

/// A schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Schema {
    name: String,
    quoted: String,
}

impl Schema {
    pub(super) fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        Self { name, quoted }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// As an identifier in SQL.
    pub(super) fn quoted(&self) -> &str {
        &self.quoted
    }

    /// As a string literal in SQL.
    pub(super) fn literal(&self) -> String {
        super::leases::quote(&self.name)
    }

    /// The statement that puts the rest of its session into the schema.
    pub(super) fn set_search_path(&self) -> String {
        format!("SET search_path = {}, pg_temp", self.quoted)
    }

    /// The statement that puts the rest of its transaction into the schema.
    pub(super) fn set_local(&self) -> String {
        format!("SET LOCAL search_path = {}, pg_temp", self.quoted)
    }

    /// Qualifies the outbox's names in a statement, but not in its literals, except those that
    /// [a function takes for a name](NAME_FUNCTIONS).
    pub(super) fn qualify(&self, sql: &str) -> String {
        let mut out = String::with_capacity(sql.len() + 16 * self.quoted.len());
        let (mut copied, mut at) = (0, 0);
        while let Some(byte) = sql.as_bytes().get(at) {
            let (before, rest) = sql.as_bytes().split_at(at);
            let (end, is_name) = match byte {
                b'\'' => (literal_end(rest, is_escaping(before)), false),
                b'"' => (quoted_end(rest, b'"'), rest[1..].starts_with(PREFIX)),
                b'o' if rest.starts_with(PREFIX) => (PREFIX.len(), !before.last().is_some_and(is_word)),
                _ => (1, false),
            };
            if is_name && !before.ends_with(b".") {
                out.push_str(&sql[copied..at]);
                out.push_str(&self.quoted);
                out.push('.');
                copied = at;
            } else if *byte == b'\'' && rest[1..].starts_with(PREFIX) && is_argument(before) {
                out.push_str(&sql[copied..=at]);
                out.push_str(&self.quoted.replace('\'', "''"));
                out.push('.');
                copied = at + 1;
            }
            at += end;
        }
        out.push_str(&sql[copied..]);
        out
    }
}

/// Whether a literal after this text is a name.
fn is_argument(before: &[u8]) -> bool {
    NAME_FUNCTIONS.iter().any(|function| before.ends_with(function))
}

/// A byte of a character beyond ASCII is a part of a word.
fn is_word(byte: &u8) -> bool {
    *byte == b'_' || byte.is_ascii_alphanumeric() || !byte.is_ascii()
}

/// Whether the literal that follows has escapes.
fn is_escaping(before: &[u8]) -> bool {
    match before {
        [rest @ .., b'E' | b'e'] => !rest.last().is_some_and(is_word),
        _ => false,
    }
}

/// The end of a literal at the beginning of the text.
fn literal_end(text: &[u8], is_escaping: bool) -> usize {
    if !is_escaping {
        return quoted_end(text, b'\'');
    }
    let mut bytes = text.iter().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'\'' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The end of a quoted text. A doubled quote ends one and begins the next.
fn quoted_end(text: &[u8], quote: u8) -> usize {
    text[1..].iter().position(|byte| *byte == quote).map_or(text.len(), |at| at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qualified(sql: &str) -> String {
        Schema::new("a b").qualify(sql)
    }

    #[test]
    fn tables_and_functions_are_qualified() {
        for (sql, expected) in [
            ("SELECT FROM outbox_events e", "SELECT FROM \"a b\".outbox_events e"),
            ("SELECT outbox_shard(e.key, e.id)", "SELECT \"a b\".outbox_shard(e.key, e.id)"),
            ("\"outbox_events\".\"id\"", "\"a b\".\"outbox_events\".\"id\""),
            ("(outbox_meta)", "(\"a b\".outbox_meta)"),
        ] {
            assert_eq!(qualified(sql), expected);
        }
    }

    #[test]
    fn other_words_and_literals_stay() {
        for sql in [
            "SELECT myoutbox_events, e.outbox_id, \"x outbox_events\", public.outbox_events",
            "SELECT 'outbox_events', 'it''s outbox_events', ' outbox_events'",
            "SELECT E'a\\' outbox_events', E'\\\\', pg_notify('outbox_1', '')",
            "SELECT 'ä', $1, äoutbox_events, 'open",
            "",
        ] {
            assert_eq!(qualified(sql), sql);
        }
    }

    #[test]
    fn names_behind_literals_are_qualified() {
        assert_eq!(qualified("'it''s', outbox_meta"), "'it''s', \"a b\".outbox_meta");
        assert_eq!(qualified("E'\\'', outbox_meta"), "E'\\'', \"a b\".outbox_meta");
        assert_eq!(qualified("E'\\\\', outbox_meta"), "E'\\\\', \"a b\".outbox_meta");
    }

    #[test]
    fn literals_that_are_names_are_qualified() {
        assert_eq!(qualified("nextval('outbox_events_seq')"), "nextval('\"a b\".outbox_events_seq')");
        let quotes = Schema::new("it's \"x\"").qualify("to_regclass('outbox_meta'), outbox_meta");
        assert_eq!(quotes, "to_regclass('\"it''s \"\"x\"\"\".outbox_meta'), \"it's \"\"x\"\"\".outbox_meta");
    }

    proptest::proptest! {
        #[test]
        fn nothing_but_the_schema_is_added(parts in proptest::collection::vec("outbox_a|[\"'Eeö\\\\. x(]|nextval\\(", 0..30)) {
            let sql = parts.concat();
            let qualified = Schema::new("§").qualify(&sql);
            proptest::prop_assert_eq!(qualified.replace("\"§\".", ""), sql);
        }
    }
}
