//! Judges the settings of a MariaDB or MySQL server.

use super::Findings;
use crate::store::DatabaseFacts;

pub(super) fn judge(facts: &DatabaseFacts, findings: &mut Findings) {
    let setting = |name: &str| facts.settings.get(name).map(String::as_str);
    if setting("innodb_flush_log_at_trx_commit").is_some_and(|when| when != "1") {
        findings.danger(
            "durability",
            "innodb_flush_log_at_trx_commit is not 1: a crash may lose committed events, and records of events that were sent",
            "set innodb_flush_log_at_trx_commit = 1",
        );
    }
    // After a crash, what the binary log does not have is rolled back.
    if setting("log_bin") == Some("ON") && setting("sync_binlog").is_some_and(|count| count != "1") {
        findings.danger(
            "durability",
            "sync_binlog is not 1: a crash of the machine may lose committed events, and records of events that were sent",
            "set sync_binlog = 1",
        );
    }
    if let Some(step) = setting("auto_increment_increment").filter(|step| *step != "1") {
        findings.danger(
            "auto_increment",
            format!("auto_increment_increment is {step}, as if several servers wrote: they would not keep the order of a key"),
            "write on one server; set auto_increment_increment = 1 (Galera: wsrep_auto_increment_control = OFF)",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(settings: &[(&str, &str)]) -> Vec<&'static str> {
        let settings = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut findings = Findings::new("database");
        judge(&DatabaseFacts { settings, ..DatabaseFacts::default() }, &mut findings);
        findings.found.into_iter().map(|finding| finding.check).collect()
    }

    #[test]
    fn settings_that_endanger_commits_or_the_order_are_found() {
        let sound = [("auto_increment_increment", "1"), ("innodb_flush_log_at_trx_commit", "1"), ("log_bin", "ON")];
        assert!(found(&[]).is_empty() && found(&sound).is_empty());
        assert!(found(&[("log_bin", "OFF"), ("sync_binlog", "0")]).is_empty());
        assert_eq!(found(&[("log_bin", "ON"), ("sync_binlog", "0")]), ["durability"]);
        assert_eq!(found(&[("innodb_flush_log_at_trx_commit", "2")]), ["durability"]);
        assert_eq!(found(&[("auto_increment_increment", "2")]), ["auto_increment"]);
    }
}
