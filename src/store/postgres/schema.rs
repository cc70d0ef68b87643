//! The schema of an outbox, by which its statements name tables and functions.
//!
//! A session's search path is not relied on: a pooler in transaction mode passes a path that one client has set on to others,
//! and a path may lead to the outbox of another schema. So the names in each statement are qualified before it is sent.

/// The functions whose argument is a name in a literal.
const NAME_FUNCTIONS: [&str; 3] = ["to_regclass(", "nextval(", "pg_relation_size("];

/// The beginning of all names of the outbox's tables, sequences, views and functions.
const PREFIX: &str = "outbox_";

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
        let mut rest = sql;
        while let Some(first) = rest.chars().next() {
            let end = match first {
                '\'' => literal_end(rest, is_escaping(&out)),
                '"' => quoted_end(rest, '"'),
                _ if is_word(first) => rest.find(|next| !is_word(next)).unwrap_or(rest.len()),
                _ => rest.find(|next| next == '\'' || next == '"' || is_word(next)).unwrap_or(rest.len()),
            };
            let (token, behind) = rest.split_at(end);
            match first {
                '\'' => self.push_literal(&mut out, token),
                _ => self.push_name(&mut out, token),
            }
            rest = behind;
        }
        out
    }

    fn push_name(&self, out: &mut String, token: &str) {
        if token.trim_start_matches('"').starts_with(PREFIX) && !out.ends_with('.') {
            out.push_str(&self.quoted);
            out.push('.');
        }
        out.push_str(token);
    }

    fn push_literal(&self, out: &mut String, token: &str) {
        if token[1..].starts_with(PREFIX) && NAME_FUNCTIONS.iter().any(|function| out.ends_with(function)) {
            out.push('\'');
            out.push_str(&self.quoted.replace('\'', "''"));
            out.push('.');
            out.push_str(&token[1..]);
        } else {
            out.push_str(token);
        }
    }
}

fn is_word(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

/// Whether the literal that follows has escapes.
fn is_escaping(before: &str) -> bool {
    before.strip_suffix(['E', 'e']).is_some_and(|before| !before.ends_with(is_word))
}

/// The end of a literal at the beginning of the text.
fn literal_end(text: &str, is_escaping: bool) -> usize {
    if !is_escaping {
        return quoted_end(text, '\'');
    }
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '\'' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The end of a quoted text. A doubled quote ends one and begins the next.
fn quoted_end(text: &str, quote: char) -> usize {
    text[1..].find(quote).map_or(text.len(), |at| at + 2)
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
            "SELECT 'ä', $1, 'open",
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
}
