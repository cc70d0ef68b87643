//! Programs with a wrong clock.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// Shifts the clock of a command's program by this many seconds, forwards or backwards.
pub(crate) fn shift(command: &mut Command, seconds: i64) {
    static LIBRARY: OnceLock<TempDir> = OnceLock::new();
    let folder = LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        compile(&folder.path().join("clock.so"));
        folder
    });
    command.env("LD_PRELOAD", folder.path().join("clock.so")).env("CLOCK_SHIFT", seconds.to_string());
}

fn compile(library: &Path) {
    let source = library.with_extension("c");
    std::fs::write(&source, include_str!("clock.c")).unwrap();
    let output = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(library).arg(source).output();
    let output = output.expect("a C compiler by the name of cc");
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
}
