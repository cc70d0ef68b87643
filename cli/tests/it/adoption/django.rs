//! A Django application that shares its database with an outbox.

use std::process::Command;

use serde_json::Value;

use crate::python::interpreter;

/// The versions of django-broadcaster and Django in these tests.
const PACKAGES: [&str; 4] = ["django-broadcaster==0.1.1", "Django==5.2.19", "psycopg[binary]==3.3.9", "redis==8.1.0"];

const MYSQL_PACKAGES: [&str; 4] = ["django-broadcaster==0.1.1", "Django==5.2.19", "PyMySQL==1.1.2", "redis==8.1.0"];

pub(super) struct Django {
    pub(super) database: String,
    pub(super) redis: String,
    pub(super) stream: String,
}

impl Django {
    /// Calls a function of the application's `app.py`, and returns its result.
    pub(super) fn call(&self, function: &str, arguments: &[&str]) -> Value {
        let app = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/adoption/app.py");
        let (environment, packages) = match self.database.starts_with("mysql") {
            true => ("django-broadcaster-mysql", &MYSQL_PACKAGES),
            false => ("django-broadcaster", &PACKAGES),
        };
        let output = Command::new(interpreter(environment, packages))
            .arg(app)
            .arg(function)
            .args(arguments)
            .env("DATABASE_URL", &self.database)
            .env("REDIS_URL", &self.redis)
            .env("STREAM", &self.stream)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{function}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{function}: {error}: {said}"))
    }
}
