//! The programs without their servers. `cli/tests/it/orders.rs` runs them with a worker, PostgreSQL and Redis.

#![allow(clippy::unwrap_used, reason = "a test has no better answer to an error than to fail")]

use std::process::Command;

/// What a program says that has the address of Redis alone.
fn said(program: &str) -> String {
    let mut command = Command::new(program);
    command.env_remove("DATABASE_URL").env("OUTBOX__PUBLISHERS__DEFAULT__URL", "redis://localhost");
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn both_programs_say_that_they_need_the_address_of_a_database() {
    for program in [env!("CARGO_BIN_EXE_orders"), env!("CARGO_BIN_EXE_mailer")] {
        let said = said(program);
        assert!(said.contains("database.url") && said.contains("DATABASE_URL"), "{program}: {said}");
    }
}
