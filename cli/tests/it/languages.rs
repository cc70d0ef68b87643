//! The programs in the book that publish from other languages: a row and its event, both or neither.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::python::interpreter;
use crate::test_outbox::TestOutbox;

const BOOK: &str = include_str!("../../../docs/languages.md");

/// Refuses every row when its transaction commits, after the event was published.
const REFUSE_AT_COMMIT: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused at commit'; END $$;
    CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()";

/// The book's programs in a language.
fn programs(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    BOOK.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Runs a program twice: it commits, and then it cannot commit.
async fn commits_or_writes_nothing(command: impl Fn() -> Command) {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    sql.batch_execute("CREATE TABLE users (name text PRIMARY KEY)").await.unwrap();
    let url = url::Url::parse(test.url()).unwrap();
    let run = || -> Output {
        let mut command = command();
        let address = [
            ("PGHOST", url.host_str().unwrap().to_owned()),
            ("PGPORT", url.port().unwrap().to_string()),
            ("PGUSER", url.username().to_owned()),
            ("PGDATABASE", test.database().name.clone()),
        ];
        command.envs(address).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    };
    let published = run();
    assert!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
    let written =
        "SELECT count(*) FROM outbox_events JOIN users ON partition_key = name AND data = '{\"name\": \"ann\"}'";
    assert_eq!(test.number(written).await, 1);

    sql.batch_execute(&format!("DELETE FROM users; {REFUSE_AT_COMMIT}")).await.unwrap();
    let failed = run();
    let said = [failed.stdout, failed.stderr].concat();
    assert!(!failed.status.success() && String::from_utf8_lossy(&said).contains("refused at commit"));
    assert_eq!(test.number("SELECT count(*) FROM users").await, 0);
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, 1);
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn the_documented_python_publishes_in_its_transaction() {
    const PACKAGES: [&str; 3] = ["psycopg[binary]==3.3.9", "sqlalchemy==2.1.9", "django==5.2.19"];
    let site = TempDir::new().unwrap();
    file(site.path(), "users/__init__.py", "");
    file(
        site.path(),
        "users/models.py",
        "from django.db import models\nclass User(models.Model):\n    name = models.TextField(primary_key=True)\n    \
         class Meta:\n        db_table = 'users'\n",
    );
    let connect = "import os, django\nfrom django.conf import settings\nsettings.configure(INSTALLED_APPS=['users'], \
                   DATABASES={'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': os.environ['PGDATABASE']}})\n\
                   django.setup()\n";
    let programs = programs("python");
    assert_eq!(programs.len(), 3);
    for program in programs {
        let text = if program.contains("django") { format!("{connect}{program}") } else { program.to_owned() };
        commits_or_writes_nothing(|| {
            let mut command = Command::new(interpreter("languages", &PACKAGES));
            command.current_dir(site.path()).env("PYTHONPATH", site.path()).args(["-c", &text]);
            command
        })
        .await;
    }
}

#[tokio::test]
async fn the_documented_javascript_publishes_in_its_transaction() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("languages-node");
    fs::create_dir_all(&folder).unwrap();
    if !folder.join("node_modules/pg").exists() {
        let mut install = Command::new("npm");
        install.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "pg@8.23.1", "--prefix"]);
        let installed = install.arg(&folder).output().expect("npm; Debian: apt-get install nodejs npm");
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    }
    let [program] = programs("js")[..] else { panic!("another number of programs") };
    let program = file(&folder, "publish.mjs", program);
    commits_or_writes_nothing(|| {
        let mut command = Command::new("node");
        command.arg(&program);
        command
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Go: apt-get install golang-go golang-github-jackc-pgx-v4-dev"]
async fn the_documented_go_publishes_in_its_transaction() {
    let folder = TempDir::new().unwrap();
    let [program] = programs("go")[..] else { panic!("another number of programs") };
    let text = format!(
        "package main\nimport (\"context\"; \"log\"; \"github.com/jackc/pgx/v4\")\n{program}\n\
         func main() {{\n\tctx := context.Background()\n\tconn, err := pgx.Connect(ctx, \"\")\n\
         \tif err == nil {{ err = createUser(ctx, conn, \"ann\") }}\n\tif err != nil {{ log.Fatal(err) }}\n}}\n"
    );
    let program = file(folder.path(), "publish.go", &text);
    commits_or_writes_nothing(|| {
        let mut command = Command::new("go");
        // Debian has the sources of packages in this folder.
        command.args(["run"]).arg(&program).env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
        command.env("GOFLAGS", "-trimpath").env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache"));
        command
    })
    .await;
}
