//! The examples in the adapters' own documentation are those of the book's page, which are compiled.

const PAGE: &str = include_str!("../../../docs/drivers.md");

/// The Rust code in a module's documentation, with the versions that the page has.
fn example(source: &str) -> String {
    let documentation: Vec<_> = source.lines().map_while(|line| line.strip_prefix("//!")).collect();
    let code = documentation.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n");
    let code = code.split("```\n").nth(1).unwrap_or_default().trim_end_matches("```");
    code.replace("sqlx_0_8", "sqlx_0_9").replace("sea_orm_1", "sea_orm_2")
}

#[test]
fn examples_of_the_modules_are_those_of_the_page() {
    for (name, source) in [
        ("tokio_postgres", include_str!("../../../src/publish/adapters/tokio_postgres.rs")),
        ("mysql_async", include_str!("../../../src/publish/adapters/mysql_async.rs")),
        ("sqlx_0_8", include_str!("../../../src/publish/adapters/sqlx_0_8.rs")),
        ("sqlx_0_9", include_str!("../../../src/publish/adapters/sqlx_0_9.rs")),
        ("sea_orm_1", include_str!("../../../src/publish/adapters/sea_orm_1.rs")),
        ("sea_orm_2", include_str!("../../../src/publish/adapters/sea_orm_2.rs")),
        ("rusqlite", include_str!("../../../src/publish/adapters/rusqlite.rs")),
    ] {
        let example = example(source);
        assert!(example.contains("publish("), "{name} has no example: {example:?}");
        assert!(PAGE.contains(&example), "{name}: {example}");
    }
}
