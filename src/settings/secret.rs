//! Text that stays out of logs and messages.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plain_text::decode;

const MASK: &str = "***";

/// How long a command may take to print a secret.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// A password, or an address that may hold one: given as text, or with the place to read it from.
///
/// Such a place is read again for each connection, so that the text may change. `Debug` and `Display` show an address without
/// its password, and nothing of any other text. It is never serialized.
#[derive(Clone)]
pub struct Secret(Source);

#[derive(Clone)]
enum Source {
    Text(String),
    File(PathBuf),
    Command(Vec<String>),
    Function(Arc<Function>),
}

type Function = dyn Fn() -> Result<String, Box<dyn Error + Send + Sync>> + Send + Sync;

impl Secret {
    /// The content of a file. A line end at its end does not count.
    #[must_use]
    pub fn from_file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// What a program prints, called with these arguments and without a shell. A line end at its end does not count.
    #[must_use]
    pub fn from_command<T: Into<String>>(words: impl IntoIterator<Item = T>) -> Self {
        Self(Source::Command(words.into_iter().map(Into::into).collect()))
    }

    /// What a function of the application returns. It is called on a thread that may block.
    #[must_use]
    pub fn from_fn(read: impl Fn() -> Result<String, Box<dyn Error + Send + Sync>> + Send + Sync + 'static) -> Self {
        Self(Source::Function(Arc::new(read)))
    }

    /// The text. Reads a file, or waits for a command or a function.
    ///
    /// # Errors
    /// [`SecretError`]: the text cannot be had.
    pub fn read(&self) -> Result<Cow<'_, str>, SecretError> {
        match &self.0 {
            Source::Text(text) => Ok(Cow::Borrowed(text)),
            Source::File(path) => read_file(path).map(Cow::Owned),
            Source::Command(words) => run(words).map(Cow::Owned),
            Source::Function(read) => read().map(Cow::Owned).map_err(SecretError::Function),
        }
    }

    /// The text of a secret that was given as one.
    pub(crate) fn as_text(&self) -> Option<&str> {
        if let Source::Text(text) = &self.0 { Some(text) } else { None }
    }

    /// Whether every reading gives the same text.
    #[cfg(feature = "postgres")]
    pub(crate) fn is_fixed(&self) -> bool {
        matches!(self.0, Source::Text(_))
    }

    /// Whether no text was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_text().is_some_and(str::is_empty)
    }
}

impl Default for Secret {
    fn default() -> Self {
        Self(Source::Text(String::new()))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Source::Text(this), Source::Text(other)) => this == other,
            (Source::File(this), Source::File(other)) => this == other,
            (Source::Command(this), Source::Command(other)) => this == other,
            (Source::Function(this), Source::Function(other)) => Arc::ptr_eq(this, other),
            _ => false,
        }
    }
}

impl Eq for Secret {}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Source::Text(text))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Text(text) => f.write_str(&masked(text)),
            Source::File(path) => write!(f, "the content of {}", path.display()),
            Source::Command(words) => write!(f, "what `{}` prints", program(words)),
            Source::Function(_) => f.write_str("what the application returns"),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({self})")
    }
}

/// Why a secret cannot be had. No variant holds any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Its file cannot be read.
    #[error("the secret's file {} cannot be read: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: io::Error,
    },
    /// Its file, or what its command printed, is not text.
    #[error("{origin} is {problem}; write it as UTF-8")]
    NotText {
        /// The file or the command.
        origin: String,
        /// UTF-16, or not UTF-8.
        problem: &'static str,
    },
    /// Its file, or what its command printed, is empty.
    #[error("{origin} is empty")]
    Empty {
        /// The file or the command.
        origin: String,
    },
    /// Its command cannot be started.
    #[error("the secret's command `{program}` cannot be started: {reason}")]
    Start {
        /// The program.
        program: String,
        /// The system's reason.
        reason: io::Error,
    },
    /// Its command failed.
    #[error("the secret's command `{program}` ended with {status}")]
    Command {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// Its command did not end in time.
    #[error("the secret's command `{program}` has not ended within {limit:?}")]
    Late {
        /// The program.
        program: String,
        /// The time limit.
        limit: Duration,
    },
    /// The application's function failed.
    #[error("the application returned no secret: {0}")]
    Function(#[source] Box<dyn Error + Send + Sync>),
}

fn read_file(path: &Path) -> Result<String, SecretError> {
    let bytes = std::fs::read(path).map_err(|reason| SecretError::File { path: path.to_owned(), reason })?;
    warn_once_if_others_may_read(path);
    text(bytes, || format!("the secret's file {}", path.display()))
}

#[cfg(unix)]
fn warn_once_if_others_may_read(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Mutex, PoisonError};

    const OTHERS_READ: u32 = 0o004;
    static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let is_open = std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & OTHERS_READ != 0);
    if is_open && WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
        tracing::warn!(file = %path.display(), "every user of this machine may read this secret; `chmod o-r` prevents that");
    }
}

#[cfg(not(unix))]
fn warn_once_if_others_may_read(_: &Path) {}

/// A line end behind the text does not count.
fn text(bytes: Vec<u8>, origin: impl Fn() -> String) -> Result<String, SecretError> {
    let text = decode(bytes).map_err(|problem| SecretError::NotText { origin: origin(), problem })?;
    match text.trim_end_matches(['\n', '\r']) {
        "" => Err(SecretError::Empty { origin: origin() }),
        text => Ok(text.to_owned()),
    }
}

fn program(words: &[String]) -> &str {
    words.first().map_or("", String::as_str)
}

/// Runs a command; its complaints go where this program's go.
fn run(words: &[String]) -> Result<String, SecretError> {
    let name = || program(words).to_owned();
    let start = |reason| SecretError::Start { program: name(), reason };
    let mut command = Command::new(program(words));
    command.args(words.get(1..).unwrap_or_default()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(start)?;
    let output = child.stdout.take();
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        output.map_or(Ok(0), |mut output| io::Read::read_to_end(&mut output, &mut bytes)).map(|_| bytes)
    });
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(start)? {
            break status;
        }
        if began.elapsed() > COMMAND_LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(SecretError::Late { program: name(), limit: COMMAND_LIMIT });
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let bytes = reading.join().unwrap_or_else(|_| Err(io::Error::other("its output cannot be read"))).map_err(start)?;
    if !status.success() {
        return Err(SecretError::Command { program: name(), status });
    }
    text(bytes, || format!("what the secret's command `{}` printed", name()))
}

fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        return if text.is_empty() { String::new() } else { MASK.to_owned() };
    };
    let (address, query) = rest.split_once('?').map_or((rest, None), |(address, query)| (address, Some(query)));
    // The password contains an unescaped `?`: the query cannot be told from the password.
    if query.is_some_and(|query| query.contains('@')) {
        return format!("{scheme}://{MASK}");
    }
    let query = query.map(|query| format!("?{}", query.split('&').map(masked_parameter).collect::<Vec<_>>().join("&")));
    format!("{scheme}://{}{}", masked_address(address), query.unwrap_or_default())
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// Masks an address. The last `@` ends the user part, so that a password with an unescaped `/` or `@` is hidden.
fn masked_address(address: &str) -> String {
    match address.rsplit_once('@').map(|(user, host)| (user.split_once(':'), host)) {
        Some((Some((user, _)), host)) => format!("{user}:{MASK}@{host}"),
        _ => address.to_owned(),
    }
}

fn masked_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if name.to_ascii_lowercase().contains("pass") => format!("{name}={MASK}"),
        _ => parameter.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (given, shown) in [
            ("postgres://ann:pw@db:5432/app?sslmode=require", "postgres://ann:***@db:5432/app?sslmode=require"),
            ("postgres://ann@db/app", "postgres://ann@db/app"),
            ("redis://:pw@host:6379/0", "redis://:***@host:6379/0"),
            ("redis://localhost", "redis://localhost"),
            ("sqlite://dir/outbox.db", "sqlite://dir/outbox.db"),
            ("postgres://ann:p/w:x@y@db/app", "postgres://ann:***@db/app"),
            ("postgres://ann:p?w@db/app", "postgres://***"),
            ("postgres://db/app?user=ann&password=pw", "postgres://db/app?user=ann&password=***"),
            ("hunter2", "***"),
            ("host=db password=pw", "***"),
            ("p:w://x", "***"),
            ("", ""),
        ] {
            assert_eq!(Secret::from(given).to_string(), shown);
            assert_eq!(format!("{:?}", Secret::from(given)), format!("Secret({shown})"));
            assert_eq!(Secret::from(given).read().unwrap(), given);
        }
    }

    #[test]
    fn a_file_is_read_again_and_as_editors_write_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let secret = Secret::from_file(&path);
        for (content, expected) in [
            (&b"pw"[..], Ok("pw")),
            (b"pw\n", Ok("pw")),
            (b"p w\r\n", Ok("p w")),
            (b"\xef\xbb\xbfpw\n", Ok("pw")),
            (b"\xff\xfep\0w\0", Err("UTF-16")),
            (b"p\xffw", Err("not UTF-8")),
            (b"\n", Err("empty")),
        ] {
            std::fs::write(&path, content).unwrap();
            let read = secret.read().map(Cow::into_owned).map_err(|error| error.to_string());
            match expected {
                Ok(text) => assert_eq!(read.as_deref(), Ok(text)),
                Err(part) => assert!(read.as_ref().is_err_and(|error| error.contains(part)), "{read:?}"),
            }
        }
        std::fs::remove_file(&path).unwrap();
        assert!(secret.read().unwrap_err().to_string().contains("secret cannot be read"));
        assert!(format!("{secret}").starts_with("the content of "));
    }

    #[test]
    fn a_command_prints_a_secret_or_says_why_not() {
        let run = |words: &[&str]| Secret::from_command(words.iter().copied()).read().map(Cow::into_owned);
        assert_eq!(run(&["printf", "%s\\n", "p w"]).unwrap(), "p w");
        assert!(
            matches!(run(&["sh", "-c", "echo pw; exit 3"]), Err(SecretError::Command { status, .. }) if status.code() == Some(3))
        );
        assert!(matches!(run(&["/nowhere/vault"]), Err(SecretError::Start { .. })));
        assert!(matches!(run(&["true"]), Err(SecretError::Empty { .. })));
        assert!(matches!(run(&[]), Err(SecretError::Start { .. })));
        let secret = Secret::from_command(["printf", "hunter2"]);
        assert_eq!(format!("{secret:?}"), "Secret(what `printf` prints)");
    }
}
