//! Adopts the table of django-broadcaster's migration. One ALTER TABLE makes it the outbox's or leaves it as it was, also if it
//! is interrupted. The server copies the table, and writers wait meanwhile: columns that it generates can be added in no other
//! way.

use diesel::dsl::sql;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::error::Failure;
use super::server::Server;
use super::session::Session;
use super::statement::Statement;
use crate::store::migrate::MigrationStep;

/// A column's name, type, length or precision, and whether it is NOT NULL.
type Column = (String, String, Option<i64>, bool);
type Expected = (&'static str, &'static [&'static str], Option<i64>, bool);

const JSON: &[&str] = &["longtext", "json"];

/// The columns that django-broadcaster 0.1.1 creates.
const THEIRS: [Expected; 18] = [
    ("id", &["uuid", "char"], None, true),
    ("spec_version", &["varchar"], Some(10), true),
    ("event_type", &["varchar"], Some(255), true),
    ("source", &["varchar"], Some(255), true),
    ("subject", &["varchar"], Some(255), true),
    ("data_content_type", &["varchar"], Some(100), true),
    ("data_schema", &["varchar"], Some(200), true),
    ("data", JSON, None, false),
    ("status", &["varchar"], Some(20), true),
    ("created_at", &["datetime"], Some(6), true),
    ("updated_at", &["datetime"], Some(6), true),
    ("scheduled_at", &["datetime"], Some(6), true),
    ("published_at", &["datetime"], Some(6), false),
    ("retry_count", &["int"], None, true),
    ("max_retries", &["int"], None, true),
    ("last_error", &["longtext"], None, true),
    ("publisher_backend", &["varchar"], Some(100), true),
    ("publisher_config", JSON, None, true),
];

const COLUMNS: &str = "SELECT column_name, data_type, IF(data_type = 'varchar', CAST(character_maximum_length AS signed), \
        CAST(datetime_precision AS signed)), is_nullable FROM information_schema.columns \
    WHERE table_schema = DATABASE() AND table_name = 'outbox_events' ORDER BY ordinal_position";

/// `InnoDB utf8mb4`, if it is.
const KIND: &str = "SELECT CONCAT(COALESCE(t.engine, 'no engine'), ' ', SUBSTRING_INDEX(t.table_collation, '_', 1)) \
    FROM information_schema.tables t WHERE t.table_schema = DATABASE() AND t.table_name = 'outbox_events'";

/// Events that django-broadcaster's worker was about to publish when it ended; it would never read them again.
const TAKE_UP: &str =
    "UPDATE outbox_events SET status = 'pending', updated_at = UTC_TIMESTAMP(6) WHERE status = 'processing'";

const LEFT: &str = "SELECT COUNT(*) FROM outbox_events WHERE status = 'processing'";
const ROWS: &str = "SELECT CAST(table_rows AS signed) FROM information_schema.tables \
    WHERE table_schema = DATABASE() AND table_name = 'outbox_events'";

/// A table to adopt.
pub(super) struct Adoption {
    alter: String,
    left: i64,
    rows: i64,
}

impl Adoption {
    /// Inspects the table of another program. `Err`: every objection.
    pub(super) async fn find(
        session: &mut Session<'_>,
        server: Server,
        create: &str,
    ) -> Result<Result<Self, String>, Failure> {
        let rows: Vec<(String, String, Option<i64>, String)> =
            session.load(Statement::<(Text, Text, Nullable<BigInt>, Text)>::new(COLUMNS, [])).await?;
        let columns: Vec<Column> =
            rows.into_iter().map(|(name, kind, size, nullable)| (name, kind, size, nullable == "NO")).collect();
        let mut objections = find_objections(&columns);
        let kind: String = session.load_one(sql::<Text>(KIND)).await?;
        if kind != "InnoDB utf8mb4" {
            objections.push(format!("it is {kind}, not InnoDB utf8mb4"));
        }
        if !objections.is_empty() {
            return Ok(Err(objections.join("; ")));
        }
        session.be_patient().await?;
        let left = session.load_long(sql::<BigInt>(LEFT)).await?;
        session.be_as_usual().await?;
        let left = left.into_iter().next().unwrap_or_default();
        let rows: Option<i64> = session.load_one(sql::<Nullable<BigInt>>(ROWS)).await?;
        Ok(Ok(Self { alter: server.adapt(&alter(create)), left, rows: rows.unwrap_or_default() }))
    }

    pub(super) fn steps(&self) -> Vec<MigrationStep> {
        let (left, rows) = (self.left, self.rows);
        let take_up = format!("Rows written: {left}, those that django-broadcaster's worker left in processing.");
        let alter =
            format!("The table is copied: about {rows} rows by the server's estimate. Writers wait until it is done.");
        vec![
            MigrationStep { sql: TAKE_UP.to_owned(), cost: take_up },
            MigrationStep { sql: self.alter.clone(), cost: alter },
        ]
    }

    /// Returns how many events were left in `processing`. The session is patient: the statements take as long as the table is
    /// large.
    pub(super) async fn run(&self, session: &mut Session<'_>) -> Result<u64, Failure> {
        let taken_up = session.execute_long(Statement::<()>::new(TAKE_UP, [])).await?;
        session.run_long(&self.alter).await?;
        Ok(taken_up as u64)
    }
}

fn find_objections(columns: &[Column]) -> Vec<String> {
    let differs = THEIRS.iter().filter_map(|expected| difference(expected, columns));
    let others = columns.iter().filter(|(name, ..)| THEIRS.iter().all(|(theirs, ..)| theirs != name));
    differs.chain(others.map(|(name, ..)| format!("column {name} is not django-broadcaster's"))).collect()
}

fn difference((name, types, size, not_null): &Expected, columns: &[Column]) -> Option<String> {
    let Some((_, found, found_size, is_not_null)) = columns.iter().find(|(column, ..)| column == name) else {
        return Some(format!("column {name} is missing"));
    };
    let wanted = types[0];
    if !types.contains(&found.as_str()) {
        return Some(format!("column {name} is {found}, not {wanted}"));
    }
    match (size, found_size) {
        (Some(size), Some(found_size)) if size != found_size => {
            return Some(format!("column {name} is {found}({found_size}), not {wanted}({size})"));
        }
        _ => {}
    }
    match (is_not_null, not_null) {
        (false, true) => Some(format!("column {name} may be NULL")),
        (true, false) => Some(format!("column {name} is NOT NULL")),
        _ => None,
    }
}

/// The statement that gives the table the columns and indexes of the one that a migration creates. `id` stays as it is: other
/// tables may refer to it.
fn alter(create: &str) -> String {
    let changes: Vec<String> = definitions(create)
        .iter()
        .filter_map(|definition| {
            let name = definition.split_whitespace().next()?;
            match name {
                "id" => None,
                "UNIQUE" | "INDEX" => Some(format!("ADD {definition}")),
                name if THEIRS.iter().any(|(theirs, ..)| *theirs == name) => Some(format!("MODIFY {definition}")),
                _ => Some(format!("ADD COLUMN {definition}")),
            }
        })
        .collect();
    format!("ALTER TABLE outbox_events\n    {}", changes.join(",\n    "))
}

/// The definitions of columns and indexes in a CREATE TABLE.
fn definitions(create: &str) -> Vec<String> {
    let lines = create.lines().filter(|line| !line.trim_start().starts_with("--"));
    let text = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    let mut found = vec![String::new()];
    let mut depth = 0;
    for character in text.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        match (depth, character) {
            (0, ')') => break,
            (1, '(') if found.len() == 1 && found[0].is_empty() => {}
            (1, ',') => found.push(String::new()),
            (1.., _) => found.last_mut().into_iter().for_each(|last| last.push(character)),
            _ => {}
        }
    }
    found.iter().map(|definition| definition.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn theirs() -> Vec<Column> {
        let column =
            |(name, types, size, not_null): &Expected| ((*name).to_owned(), types[0].to_owned(), *size, *not_null);
        THEIRS.iter().map(column).collect()
    }

    #[test]
    fn every_difference_is_named() {
        assert!(find_objections(&theirs()).is_empty());
        let mut table = theirs();
        table.retain(|(name, ..)| name != "subject");
        table[0].1 = "text".to_owned();
        table[1].2 = Some(9);
        table[2].3 = false;
        table.push(("tenant".to_owned(), "int".to_owned(), None, false));
        let expected = [
            "column id is text, not uuid",
            "column spec_version is varchar(9), not varchar(10)",
            "column event_type may be NULL",
            "column subject is missing",
            "column tenant is not django-broadcaster's",
        ];
        assert_eq!(find_objections(&table), expected);
    }

    #[test]
    fn a_table_is_altered_into_the_one_of_the_migration() {
        let create = "CREATE TABLE t (\n  id {uuid} PRIMARY KEY,\n  -- A note, a long one.\n  status varchar(20) NOT NULL,\n  \
            due tinyint AS (IF(status IN ('a', 'b'),\n    1, 2)) STORED,\n  UNIQUE INDEX u (due),\n  INDEX i (a, b)\n) ENGINE = x;";
        let expected = "ALTER TABLE outbox_events\n    MODIFY status varchar(20) NOT NULL,\n    \
            ADD COLUMN due tinyint AS (IF(status IN ('a', 'b'), 1, 2)) STORED,\n    ADD UNIQUE INDEX u (due),\n    ADD INDEX i (a, b)";
        assert_eq!(alter(create), expected);
    }
}
