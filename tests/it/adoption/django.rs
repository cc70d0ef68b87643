//! A Django application that shares its database with an outbox.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// django-broadcaster as it was adopted, and what it was tried with.
const PACKAGES: [&str; 4] = ["django-broadcaster==0.1.1", "Django==5.2.19", "psycopg[binary]==3.3.9", "redis==8.1.0"];

pub(super) struct Django {
    pub(super) database: String,
    pub(super) redis: String,
    pub(super) stream: String,
}

impl Django {
    /// Lets the application do what a function of `app.py` does, and returns what it returned.
    pub(super) fn call(&self, function: &str, arguments: &[&str]) -> Value {
        let app = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/adoption/app.py");
        let output = Command::new(python())
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

/// The interpreter of a virtual environment that has the packages. Made once and kept between runs.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("django-broadcaster");
        fs::create_dir_all(&folder).unwrap();
        // Held until it is there: several runs may want it at once.
        let lock = File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        let (venv, installed) = (folder.join("venv"), folder.join("installed"));
        let python = venv.join("bin/python");
        let wanted = PACKAGES.join("\n");
        if fs::read_to_string(&installed).ok().as_ref() != Some(&wanted) || !python.exists() {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
            run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES));
            fs::write(&installed, wanted).unwrap();
        }
        python
    })
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {said}\nDebian: apt-get install python3-venv; pip needs the network"
    );
}
