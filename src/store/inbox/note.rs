//! Notes that events are handled.

use std::collections::HashSet;

use super::{Answer, InboxStatement, Returns, writing};
use crate::publish::Dialect;

/// The columns of the primary key.
pub(crate) type Note = (String, String, String, i64);

/// Notes that an event is handled, unless it was noted before. Waits for another transaction that has noted it.
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
        Dialect::Mysql => "INSERT IGNORE INTO outbox_inbox (consumer, source, event_id, seq) VALUES (?, ?, ?, ?)",
    };
    writing(dialect, sql, columns(note))
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
    writing(dialect, sql, columns(note))
}

fn columns((consumer, source, event_id, seq): &Note) -> Vec<String> {
    vec![consumer.clone(), source.clone(), event_id.clone(), seq.to_string()]
}

/// The only row if every note is new. A note is never empty.
const ALL: &str = "";

/// From this many notes on, PostgreSQL is first asked to write them as if all were new. `ON CONFLICT` costs it half as much
/// again for each row, and the savepoint two more statements.
const MANY: usize = 50;

/// Without the rows of the notes unless some are old: they would be sent back for nothing.
macro_rules! postgres_note_many {
    ($notes:expr) => {
        concat!(
            "WITH new AS (",
            $notes,
            " ON CONFLICT DO NOTHING RETURNING consumer, source, event_id, seq), \
            counted AS (SELECT count(*) = $5::text::bigint AS are_all FROM new) \
            SELECT '' FROM counted WHERE are_all UNION ALL \
            SELECT json_build_array(consumer, source, event_id, seq)::text FROM new CROSS JOIN counted WHERE NOT are_all"
        )
    };
}

macro_rules! postgres_notes {
    () => {
        "INSERT INTO outbox_inbox (consumer, source, event_id, seq) \
         SELECT * FROM unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[]::bigint[])"
    };
}

/// For one consumer and one source.
macro_rules! postgres_notes_alike {
    () => {
        "INSERT INTO outbox_inbox (consumer, source, event_id, seq) SELECT $1::text, $2::text, event_id, seq \
         FROM unnest($3::text::text[], $4::text::text[]::bigint[]) AS n(event_id, seq)"
    };
}

const POSTGRES_NOTE_NEW: &str = postgres_notes!();
const POSTGRES_NOTE_NEW_ALIKE: &str = postgres_notes_alike!();
const POSTGRES_NOTE_MANY: &str = postgres_note_many!(postgres_notes!());
const POSTGRES_NOTE_ALIKE: &str = postgres_note_many!(postgres_notes_alike!());

/// Without `WHERE`, ON would begin a join's condition.
const SQLITE_NOTE_MANY: &str = "INSERT INTO outbox_inbox (consumer, source, event_id, seq) \
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), \
    json_extract(value, '$[3]') FROM json_each(?1) WHERE true ON CONFLICT DO NOTHING \
    RETURNING json_array(consumer, source, event_id, seq)";

/// Remembers the state before an INSERT that does not tell which of its notes were old.
const MARK: &str = "SAVEPOINT outbox_inbox";
const UNDO: &str = "ROLLBACK TO SAVEPOINT outbox_inbox";
const UNDO_AND_RELEASE: &str = "ROLLBACK TO SAVEPOINT outbox_inbox; RELEASE SAVEPOINT outbox_inbox";
const RELEASE: &str = "RELEASE SAVEPOINT outbox_inbox";

#[cfg(feature = "mysql")]
macro_rules! mysql_notes {
    () => {
        "JSON_TABLE(?, '$[*]' COLUMNS (consumer varchar(100) PATH '$[0]', source varchar(255) PATH '$[1]', \
         event_id varchar(255) PATH '$[2]', seq bigint PATH '$[3]')) AS n"
    };
}

#[cfg(feature = "mysql")]
const MYSQL_NOTE_MANY: &str = concat!(
    "INSERT IGNORE INTO outbox_inbox (consumer, source, event_id, seq) \
     SELECT n.consumer, n.source, n.event_id, n.seq FROM ",
    mysql_notes!()
);

/// The notes that exist, locked, so that they do so until the transaction ends. Waits as the INSERT does.
#[cfg(feature = "mysql")]
const MYSQL_FIND_MANY: &str = concat!(
    "SELECT CAST(JSON_ARRAY(i.consumer, i.source, i.event_id, i.seq) AS char) FROM (SELECT * FROM ",
    mysql_notes!(),
    ") AS n STRAIGHT_JOIN outbox_inbox i ON i.consumer = n.consumer AND i.source = n.source AND i.event_id = n.event_id \
     AND i.seq = n.seq LOCK IN SHARE MODE"
);

/// Many notes, written by few statements. Execute each and pass on its answer until there is none:
///
/// ```ignore
/// let mut many = NoteMany::new(dialect, notes);
/// while let Some(statement) = many.next() {
///     many.received(execute(statement).await, is_unique_violation)?;
/// }
/// many.finish()
/// ```
pub(crate) struct NoteMany {
    dialect: Dialect,
    /// In the order of the caller, who may name an event twice.
    given: Vec<Note>,
    /// The places of each event's first note that may be new, in the order of the key: two transactions that note the
    /// same events then wait for each other in one order.
    each: Vec<usize>,
    step: Step,
}

/// The statement that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Mark,
    /// As if all were new; an error if one is not.
    InsertNew,
    Insert,
    Release,
    /// Some were new and some were not: undo it, and find the old ones.
    Undo,
    #[cfg(feature = "mysql")]
    Find,
    Done,
}

impl NoteMany {
    pub(crate) fn new(dialect: Dialect, given: Vec<Note>) -> Self {
        let mut each: Vec<usize> = (0..given.len()).collect();
        each.sort_by_key(|place| &given[*place]);
        each.dedup_by_key(|place| &given[*place]);
        let step = match dialect {
            _ if each.is_empty() => Step::Done,
            Dialect::Postgres if each.len() >= MANY => Step::Mark,
            #[cfg(feature = "mysql")]
            Dialect::Mysql => Step::Mark,
            _ => Step::Insert,
        };
        Self { dialect, given, each, step }
    }

    /// The next statement. `None`: every note is written.
    pub(crate) fn next(&self) -> Option<InboxStatement> {
        let nothing = |sql| InboxStatement { sql, params: Vec::new(), returns: Returns::Nothing };
        Some(match self.step {
            Step::Mark => nothing(MARK),
            Step::InsertNew | Step::Insert => self.insert(),
            Step::Release => nothing(RELEASE),
            Step::Undo if self.dialect == Dialect::Postgres => nothing(UNDO_AND_RELEASE),
            Step::Undo => nothing(UNDO),
            #[cfg(feature = "mysql")]
            Step::Find => InboxStatement { sql: MYSQL_FIND_MANY, params: vec![self.json()], returns: Returns::Rows },
            Step::Done => return None,
        })
    }

    /// Continues with the answer to the last statement, or returns its error.
    pub(crate) fn received<E>(
        &mut self,
        answer: Result<Answer, E>,
        is_unique_violation: impl FnOnce(&E) -> bool,
    ) -> Result<(), E> {
        self.step = match answer {
            Ok(answer) => self.after(answer),
            Err(error) if self.step == Step::InsertNew && is_unique_violation(&error) => Step::Undo,
            Err(error) => return Err(error),
        };
        Ok(())
    }

    fn after(&mut self, answer: Answer) -> Step {
        match (self.step, answer) {
            (Step::Mark, _) if self.dialect == Dialect::Postgres => Step::InsertNew,
            (Step::Mark, _) => Step::Insert,
            (Step::InsertNew, _) => Step::Release,
            (Step::Insert, Answer::Rows(rows)) => {
                if !matches!(&*rows, [all] if all == ALL) {
                    self.retain(&rows, true);
                }
                Step::Done
            }
            (Step::Insert, Answer::Count(count)) if count == self.each.len() => Step::Done,
            (Step::Insert, Answer::Count(0)) => {
                self.each.clear();
                Step::Done
            }
            (Step::Insert, Answer::Count(_)) => Step::Undo,
            (Step::Undo, _) if self.dialect == Dialect::Postgres => Step::Insert,
            #[cfg(feature = "mysql")]
            (Step::Undo, _) => Step::Find,
            #[cfg(feature = "mysql")]
            (Step::Find, answer) => {
                self.retain(&answer.rows(), false);
                if self.each.is_empty() { Step::Done } else { Step::Insert }
            }
            _ => Step::Done,
        }
    }

    /// For each note in the order given, whether it is new.
    pub(crate) fn finish(self) -> Vec<bool> {
        // A note that is given again is old the second time.
        let mut is_new = vec![false; self.given.len()];
        self.each.into_iter().for_each(|place| is_new[place] = true);
        is_new
    }

    /// Keeps the notes that are among the rows, or those that are not.
    fn retain(&mut self, rows: &[String], are_in: bool) {
        let rows: HashSet<Note> = rows.iter().filter_map(|row| serde_json::from_str(row).ok()).collect();
        self.each.retain(|place| rows.contains(&self.given[*place]) == are_in);
    }

    fn notes(&self) -> impl Iterator<Item = &Note> {
        self.each.iter().map(|place| &self.given[*place])
    }

    fn insert(&self) -> InboxStatement {
        let (sql, params) = match self.dialect {
            Dialect::Postgres => self.postgres(self.step == Step::InsertNew),
            Dialect::Sqlite => (SQLITE_NOTE_MANY, vec![self.json()]),
            #[cfg(feature = "mysql")]
            Dialect::Mysql => (MYSQL_NOTE_MANY, vec![self.json()]),
        };
        writing(self.dialect, sql, params)
    }

    fn json(&self) -> String {
        serde_json::json!(self.notes().collect::<Vec<_>>()).to_string()
    }

    fn postgres(&self, are_new: bool) -> (&'static str, Vec<String>) {
        let seqs: Vec<String> = self.notes().map(|note| note.3.to_string()).collect();
        let (event_ids, seqs) = (array(self.notes().map(|note| &*note.2)), format!("{{{}}}", seqs.join(",")));
        let (consumer, source, ..) = &self.given[0];
        let are_alike = self.notes().all(|note| note.0 == *consumer && note.1 == *source);
        let (consumers, sources) = match are_alike {
            true => (consumer.clone(), source.clone()),
            false => {
                let column = |column: fn(&Note) -> &str| array(self.notes().map(column));
                (column(|note| &note.0), column(|note| &note.1))
            }
        };
        let mut params = vec![consumers, sources, event_ids, seqs];
        let sql = match (are_new, are_alike) {
            (true, true) => POSTGRES_NOTE_NEW_ALIKE,
            (true, false) => POSTGRES_NOTE_NEW,
            (false, true) => POSTGRES_NOTE_ALIKE,
            (false, false) => POSTGRES_NOTE_MANY,
        };
        if !are_new {
            params.push(self.each.len().to_string());
        }
        (sql, params)
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

    fn received(many: &mut NoteMany, answer: Answer) {
        many.received(Ok::<_, ()>(answer), |()| unreachable!()).unwrap();
    }

    #[test]
    fn many_notes_are_written_as_new_and_if_one_is_old_each_for_itself() {
        let notes: Vec<Note> = (0..MANY).map(|n| note(&n.to_string())).collect();
        let begun = || {
            let mut many = NoteMany::new(Dialect::Postgres, notes.clone());
            assert_eq!(many.next().unwrap().sql, MARK);
            received(&mut many, Answer::Count(0));
            let statement = many.next().unwrap();
            assert_eq!((statement.sql, statement.params.len()), (POSTGRES_NOTE_NEW_ALIKE, 4));
            many
        };

        let mut many = begun();
        received(&mut many, Answer::Rows(Vec::new()));
        assert_eq!(many.next().unwrap().sql, RELEASE);
        received(&mut many, Answer::Count(0));
        assert!(many.next().is_none());
        assert_eq!(many.finish(), [true; MANY]);

        let mut many = begun();
        assert_eq!(many.received(Err("gone"), |_| false), Err("gone"));
        many.received(Err("old"), |_| true).unwrap();
        assert_eq!(many.next().unwrap().sql, UNDO_AND_RELEASE);
        received(&mut many, Answer::Count(0));
        assert_eq!(many.next().unwrap().sql, POSTGRES_NOTE_ALIKE);
        assert_eq!(many.received(Err("another one"), |_| true), Err("another one"));
        let new = notes.iter().skip(1).map(|note| serde_json::to_string(note).unwrap());
        received(&mut many, Answer::Rows(new.collect()));
        assert!(many.next().is_none());
        let is_new = many.finish();
        assert!(!is_new[0] && is_new[1..].iter().all(|is_new| *is_new), "{is_new:?}");
    }

    #[test]
    fn each_note_is_written_once_in_the_order_of_the_key() {
        let mut many = NoteMany::new(Dialect::Postgres, vec![note("b"), note("a\"\\,"), note("b")]);
        let statement = many.next().unwrap();
        assert_eq!(statement.params, ["c", "s", r#"{"a\"\\,","b"}"#, "{0,0}", "2"]);
        received(&mut many, Answer::Rows(vec![String::new()]));
        assert!(many.next().is_none());
        assert_eq!(many.finish(), [true, true, false]);
    }

    #[test]
    fn notes_of_several_sources_are_arrays() {
        let other = ("c".to_owned(), "other".to_owned(), "a".to_owned(), -1);
        let statement = NoteMany::new(Dialect::Postgres, vec![note("b"), other]).next().unwrap();
        assert_eq!(statement.params, [r#"{"c","c"}"#, r#"{"other","s"}"#, r#"{"a","b"}"#, "{-1,0}", "2"]);
    }

    #[test]
    fn old_notes_are_told_from_new_ones() {
        let mut many = NoteMany::new(Dialect::Sqlite, vec![note("b"), note("a"), note("b")]);
        received(&mut many, Answer::Rows(vec![r#"["c","s","b",0]"#.to_owned()]));
        assert_eq!(many.finish(), [true, false, false]);
        assert!(NoteMany::new(Dialect::Sqlite, Vec::new()).next().is_none());
        let mut many = NoteMany::new(Dialect::Sqlite, vec![note("a")]);
        received(&mut many, Answer::Rows(Vec::new()));
        assert_eq!(many.finish(), [false]);
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn counted_notes_are_undone_and_old_ones_found_only_if_some_are_new() {
        let many = || NoteMany::new(Dialect::Mysql, vec![note("b"), note("a"), note("b")]);
        let executed = |many: &mut NoteMany, answers: &[Answer]| -> Vec<&str> {
            let mut answers = answers.iter().cloned();
            std::iter::from_fn(|| {
                let sql = many.next()?.sql;
                received(many, answers.next().unwrap());
                sql.split(' ').next()
            })
            .collect()
        };
        for (count, is_new) in [(2, [true, true, false]), (0, [false; 3])] {
            let mut many = many();
            assert_eq!(executed(&mut many, &[Answer::Count(0), Answer::Count(count)]), ["SAVEPOINT", "INSERT"]);
            assert_eq!(many.finish(), is_new);
        }
        let mut many = many();
        let found = Answer::Rows(vec![r#"["c", "s", "a", 0]"#.to_owned()]);
        let answers = [Answer::Count(0), Answer::Count(1), Answer::Count(0), found, Answer::Count(1)];
        assert_eq!(executed(&mut many, &answers), ["SAVEPOINT", "INSERT", "ROLLBACK", "SELECT", "INSERT"]);
        assert_eq!(many.finish(), [true, false, false]);
    }
}
