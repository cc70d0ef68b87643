//! Checks whether a table is django-broadcaster's, or one whose adoption has begun.

/// A column in the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    /// The type as `format_type` prints it.
    pub(super) data_type: String,
    pub(super) not_null: bool,
    /// Whether a writer may omit it.
    pub(super) filled: bool,
}

/// Name, type, and whether it is NOT NULL.
type Expected = (&'static str, &'static str, bool);

/// The columns that django-broadcaster 0.1.1 creates on PostgreSQL.
const THEIRS: [Expected; 18] = [
    ("id", "uuid", true),
    ("spec_version", "character varying(10)", true),
    ("event_type", "character varying(255)", true),
    ("source", "character varying(255)", true),
    ("subject", "character varying(255)", true),
    ("data_content_type", "character varying(100)", true),
    ("data_schema", "character varying(200)", true),
    ("data", "jsonb", false),
    ("status", "character varying(20)", true),
    ("created_at", "timestamp with time zone", true),
    ("updated_at", "timestamp with time zone", true),
    ("scheduled_at", "timestamp with time zone", true),
    ("published_at", "timestamp with time zone", false),
    ("retry_count", "integer", true),
    ("max_retries", "integer", true),
    ("last_error", "text", true),
    ("publisher_backend", "character varying(100)", true),
    ("publisher_config", "jsonb", true),
];

/// The columns that the adoption adds, all together.
const OURS: [Expected; 8] = [
    ("seq", "bigint", false),
    ("retry_at", "timestamp with time zone", false),
    ("cloud_event_id", "character varying(255)", true),
    ("extensions", "jsonb", true),
    ("partition_key", "character varying(255)", true),
    ("data_binary", "bytea", false),
    ("pending_handlers", "jsonb", false),
    ("errors", "jsonb", false),
];

/// The reasons against adopting the table; empty: none.
pub(super) fn find_objections(columns: &[Column]) -> Vec<String> {
    let ours: &[Expected] = if has_ours(columns) { &OURS } else { &[] };
    let wanted = || THEIRS.iter().chain(ours);
    let differs = wanted().filter_map(|expected| difference(expected, columns));
    let foreign = columns.iter().filter(|column| wanted().all(|(name, ..)| *name != column.name));
    let in_the_way = foreign.filter(|column| column.not_null && !column.filled);
    differs.chain(in_the_way.map(|column| format!("column {} is NOT NULL without a default", column.name))).collect()
}

/// Whether the table has the columns that the adoption adds, or others with their names.
pub(super) fn has_ours(columns: &[Column]) -> bool {
    columns.iter().any(|column| OURS.iter().any(|(name, ..)| *name == column.name))
}

fn difference(&(name, data_type, not_null): &Expected, columns: &[Column]) -> Option<String> {
    let Some(column) = columns.iter().find(|column| column.name == name) else {
        return Some(format!("column {name} is missing"));
    };
    if column.data_type != data_type {
        return Some(format!("column {name} is {}, not {data_type}", column.data_type));
    }
    match (column.not_null, not_null) {
        (false, true) => Some(format!("column {name} may be NULL")),
        (true, false) => Some(format!("column {name} is NOT NULL")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(expected: &[Expected]) -> Vec<Column> {
        let column = |&(name, data_type, not_null): &Expected| Column {
            name: name.to_owned(),
            data_type: data_type.to_owned(),
            not_null,
            filled: false,
        };
        expected.iter().map(column).collect()
    }

    #[test]
    fn their_table_is_taken_before_and_after_our_columns_were_added() {
        assert_eq!(find_objections(&columns(&THEIRS)), Vec::<String>::new());
        assert_eq!(find_objections(&columns(&[&THEIRS[..], &OURS].concat())), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_named() {
        let mut table = columns(&THEIRS);
        table.retain(|column| column.name != "subject");
        table[0].data_type = "text".to_owned();
        table[1].not_null = false;
        table[6].not_null = true;
        let expected = [
            "column id is text, not uuid",
            "column spec_version may be NULL",
            "column subject is missing",
            "column data is NOT NULL",
        ];
        assert_eq!(find_objections(&table), expected);
    }

    #[test]
    fn one_column_of_a_name_of_ours_is_not_ours() {
        let table = columns(&[&THEIRS[..], &OURS[..1]].concat());
        let objections = find_objections(&table);
        assert_eq!((objections.len(), &*objections[0]), (OURS.len() - 1, "column retry_at is missing"));
    }

    #[test]
    fn an_unknown_not_null_column_without_a_default_is_an_objection() {
        let mut table = columns(&THEIRS);
        table.push(Column { name: "tenant".to_owned(), data_type: "text".to_owned(), not_null: true, filled: false });
        assert_eq!(find_objections(&table), ["column tenant is NOT NULL without a default"]);
        table[18].filled = true;
        assert_eq!(find_objections(&table), Vec::<String>::new());
    }
}
