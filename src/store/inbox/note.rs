//! Notes that events are handled.

use std::collections::HashSet;

use super::InboxStatement;
use crate::publish::Dialect;

/// The columns of the primary key.
pub(crate) type Note = (String, String, String, i64);

/// Notes that an event is handled: one row if it is new. Waits for another transaction that has noted it.
pub(crate) fn note(dialect: Dialect, note: &Note) -> InboxStatement {
    let sql = match dialect {
        Dialect::Postgres => {
            "INSERT INTO outbox_inbox (consumer, source, event_id, seq) \
             VALUES ($1::text, $2::text, $3::text, $4::text::bigint) ON CONFLICT DO NOTHING RETURNING ''::text"
        }
        Dialect::Sqlite => {
            "INSERT INTO outbox_inbox (consumer, source, event_id, seq) VALUES (?1, ?2, ?3, CAST(?4 AS INTEGER)) \
             ON CONFLICT DO NOTHING RETURNING ''"
        }
        #[cfg(feature = "mysql")]
        Dialect::Mysql => {
            "INSERT IGNORE INTO outbox_inbox (consumer, source, event_id, seq) VALUES (?, ?, ?, ?) RETURNING ''"
        }
    };
    InboxStatement { sql, params: columns(note) }
}

/// Removes a note.
pub(crate) fn forget(dialect: Dialect, note: &Note) -> InboxStatement {
    let sql = match dialect {
        Dialect::Postgres => {
            "DELETE FROM outbox_inbox WHERE consumer = $1::text AND source = $2::text AND event_id = $3::text \
             AND seq = $4::text::bigint"
        }
        Dialect::Sqlite => {
            "DELETE FROM outbox_inbox WHERE consumer = ?1 AND source = ?2 AND event_id = ?3 AND seq = CAST(?4 AS INTEGER)"
        }
        #[cfg(feature = "mysql")]
        Dialect::Mysql => {
            "DELETE FROM outbox_inbox WHERE consumer = ? AND source = ? AND event_id = ? AND seq = CAST(? AS SIGNED)"
        }
    };
    InboxStatement { sql, params: columns(note) }
}

fn columns((consumer, source, event_id, seq): &Note) -> Vec<String> {
    vec![consumer.clone(), source.clone(), event_id.clone(), seq.to_string()]
}

/// Many notes that one statement writes.
pub(crate) struct NoteMany {
    /// In the order of the caller, who may name an event twice.
    given: Vec<Note>,
    /// The places of each event's first note, in the order of the key: two transactions that note the same events then
    /// wait for each other in one order.
    each: Vec<usize>,
}

/// The only row if every note is new. A note is never empty.
const ALL: &str = "";

/// Without the rows of the notes unless some are old: they would be sent back for nothing.
macro_rules! postgres_note_many {
    ($notes:literal) => {
        concat!(
            "WITH new AS (INSERT INTO outbox_inbox (consumer, source, event_id, seq) ",
            $notes,
            " ON CONFLICT DO NOTHING RETURNING consumer, source, event_id, seq), \
            counted AS (SELECT count(*) = $5::text::bigint AS are_all FROM new) \
            SELECT '' FROM counted WHERE are_all UNION ALL \
            SELECT json_build_array(consumer, source, event_id, seq)::text FROM new CROSS JOIN counted WHERE NOT are_all"
        )
    };
}

const POSTGRES_NOTE_MANY: &str = postgres_note_many!(
    "SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[]::bigint[])"
);

/// For one consumer and one source.
const POSTGRES_NOTE_ALIKE: &str = postgres_note_many!(
    "SELECT $1::text, $2::text, event_id, seq FROM unnest($3::text::text[], $4::text::text[]::bigint[]) AS n(event_id, seq)"
);

/// Without `WHERE`, ON would begin a join's condition.
const SQLITE_NOTE_MANY: &str = "INSERT INTO outbox_inbox (consumer, source, event_id, seq) \
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), \
    json_extract(value, '$[3]') FROM json_each(?1) WHERE true ON CONFLICT DO NOTHING \
    RETURNING json_array(consumer, source, event_id, seq)";

/// As MariaDB has it: MySQL returns no rows from an INSERT.
#[cfg(feature = "mysql")]
const MYSQL_NOTE_MANY: &str = "INSERT IGNORE INTO outbox_inbox (consumer, source, event_id, seq) \
    SELECT n.consumer, n.source, n.event_id, n.seq FROM JSON_TABLE(?, '$[*]' COLUMNS (consumer varchar(100) PATH '$[0]', \
    source varchar(255) PATH '$[1]', event_id varchar(255) PATH '$[2]', seq bigint PATH '$[3]')) AS n \
    RETURNING CAST(JSON_ARRAY(consumer, source, event_id, seq) AS char)";

impl NoteMany {
    pub(crate) fn new(given: Vec<Note>) -> Self {
        let mut each: Vec<usize> = (0..given.len()).collect();
        each.sort_by_key(|place| &given[*place]);
        each.dedup_by_key(|place| &given[*place]);
        Self { given, each }
    }

    /// `None`: there is nothing to note.
    pub(crate) fn statement(&self, dialect: Dialect) -> Option<InboxStatement> {
        if self.each.is_empty() {
            return None;
        }
        let notes = || self.each.iter().map(|place| &self.given[*place]);
        Some(match dialect {
            Dialect::Postgres => {
                let seqs: Vec<String> = notes().map(|note| note.3.to_string()).collect();
                let (event_ids, seqs) = (array(notes().map(|note| &*note.2)), format!("{{{}}}", seqs.join(",")));
                let (consumer, source, ..) = &self.given[0];
                let are_alike = notes().all(|note| note.0 == *consumer && note.1 == *source);
                let (sql, consumers, sources) = match are_alike {
                    true => (POSTGRES_NOTE_ALIKE, consumer.clone(), source.clone()),
                    false => {
                        let column = |column: fn(&Note) -> &str| array(notes().map(column));
                        (POSTGRES_NOTE_MANY, column(|note| &note.0), column(|note| &note.1))
                    }
                };
                let params = vec![consumers, sources, event_ids, seqs, self.each.len().to_string()];
                InboxStatement { sql, params }
            }
            Dialect::Sqlite => {
                let notes: Vec<&Note> = notes().collect();
                InboxStatement { sql: SQLITE_NOTE_MANY, params: vec![serde_json::json!(notes).to_string()] }
            }
            #[cfg(feature = "mysql")]
            Dialect::Mysql => {
                let notes: Vec<&Note> = notes().collect();
                InboxStatement { sql: MYSQL_NOTE_MANY, params: vec![serde_json::json!(notes).to_string()] }
            }
        })
    }

    /// For each note in the order given, whether it is new. `rows` are those of the statement.
    pub(crate) fn finish(self, rows: &[String]) -> Vec<bool> {
        // A note that is given again is old the second time.
        let mut is_new = vec![false; self.given.len()];
        if let [all] = rows
            && all == ALL
        {
            self.each.into_iter().for_each(|place| is_new[place] = true);
            return is_new;
        }
        let new: HashSet<Note> = rows.iter().filter_map(|row| serde_json::from_str(row).ok()).collect();
        self.each.into_iter().for_each(|place| is_new[place] = new.contains(&self.given[place]));
        is_new
    }
}

/// The text of an array of texts.
fn array<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut array = String::from("{");
    for text in texts {
        if array.len() > 1 {
            array.push(',');
        }
        array.push('"');
        let mut rest = text;
        while let Some(at) = rest.find(['"', '\\']) {
            array.push_str(&rest[..at]);
            array.push('\\');
            array.push_str(&rest[at..=at]);
            rest = &rest[at + 1..];
        }
        array.push_str(rest);
        array.push('"');
    }
    array.push('}');
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(id: &str) -> Note {
        ("c".to_owned(), "s".to_owned(), id.to_owned(), 0)
    }

    #[test]
    fn each_note_is_written_once_in_the_order_of_the_key() {
        let many = NoteMany::new(vec![note("b"), note("a\"\\,"), note("b")]);
        let statement = many.statement(Dialect::Postgres).unwrap();
        assert_eq!(statement.params, ["c", "s", r#"{"a\"\\,","b"}"#, "{0,0}", "2"]);
        assert_eq!(many.finish(&[String::new()]), [true, true, false]);
    }

    #[test]
    fn notes_of_several_sources_are_arrays() {
        let other = ("c".to_owned(), "other".to_owned(), "a".to_owned(), -1);
        let statement = NoteMany::new(vec![note("b"), other]).statement(Dialect::Postgres).unwrap();
        assert_eq!(statement.params, [r#"{"c","c"}"#, r#"{"other","s"}"#, r#"{"a","b"}"#, "{-1,0}", "2"]);
    }

    #[test]
    fn old_notes_are_told_from_new_ones() {
        let many = NoteMany::new(vec![note("b"), note("a"), note("b")]);
        assert_eq!(many.finish(&[r#"["c","s","b",0]"#.to_owned()]), [true, false, false]);
        assert!(NoteMany::new(Vec::new()).statement(Dialect::Sqlite).is_none());
        assert_eq!(NoteMany::new(vec![note("a")]).finish(&[]), [false]);
    }
}
