//! Python programs, in a virtual environment with the packages that they import.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

/// The interpreter of an environment with this name and these packages. Created once and kept between runs.
pub(crate) fn interpreter(name: &str, packages: &[&str]) -> PathBuf {
    let folder = temporary_folder().join(name);
    fs::create_dir_all(&folder).unwrap();
    // Locked until it exists, because several tests and runs may create it at the same time.
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let (venv, installed) = (folder.join("venv"), folder.join("installed"));
    let python = venv.join("bin/python");
    let wanted = packages.join("\n");
    if fs::read_to_string(&installed).ok().as_ref() != Some(&wanted) || !python.exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages));
        fs::write(&installed, wanted).unwrap();
    }
    python
}

/// Cargo's folder for the tests' own files, `target/tmp`; unit tests are not told where it is.
fn temporary_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(3).expect("target/PROFILE/deps/TEST").join("tmp")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {said}\nDebian: apt-get install python3-venv; pip needs the network"
    );
}
