//! The layers of settings: flag, environment, file, defaults.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::Settings;
use super::node::{Node, Origins};
use super::plain_text::decode;
use super::read;
use crate::error::SettingsError;

type Result<T, E = SettingsError> = std::result::Result<T, E>;

const PREFIX: &str = "OUTBOX__";
const FILE_VARIABLE: &str = "OUTBOX_CONFIG";
const DATABASE_VARIABLE: &str = "DATABASE_URL";
const DEFAULT_FILE: &str = "outbox.toml";
const TEXT_ORIGIN: &str = "the TOML text";

/// The sources that [`Settings::load`] reads.
///
/// ```
/// use actix_outbox::{LoadOptions, Settings};
///
/// let options = LoadOptions::default().variables([("OUTBOX__WORKER__BATCH_SIZE", "50")]);
/// assert_eq!(Settings::load(&options)?.worker.batch_size, 50);
/// # Ok::<(), actix_outbox::SettingsError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    file: Option<PathBuf>,
    directory: Option<PathBuf>,
    database_url: Option<super::Secret>,
    variables: BTreeMap<String, Variable>,
}

/// An environment variable; it may contain a password, so `Debug` prints nothing of it.
#[derive(Clone)]
struct Variable(OsString);

impl std::fmt::Debug for Variable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl LoadOptions {
    /// This process's environment, and `outbox.toml` in its working directory if it exists.
    #[must_use]
    pub fn from_process() -> Self {
        let mut options = Self { directory: Some(PathBuf::from(".")), ..Self::default() };
        for (name, value) in std::env::vars_os() {
            options.add(&name, value);
        }
        options
    }

    /// Reads this file and no other.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Reads `outbox.toml` in this directory if it exists and no other file is named.
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Sets the database's address, which overrides every other source.
    #[must_use]
    pub fn database_url(mut self, url: impl Into<super::Secret>) -> Self {
        self.database_url = Some(url.into());
        self
    }

    /// Adds environment variables; those that are not settings of the outbox are ignored.
    #[must_use]
    pub fn variables<N: AsRef<OsStr>, V: Into<OsString>>(mut self, pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        for (name, value) in pairs {
            self.add(name.as_ref(), value.into());
        }
        self
    }

    fn add(&mut self, name: &OsStr, value: OsString) {
        let ours = |name: &&str| name.starts_with(PREFIX) || [FILE_VARIABLE, DATABASE_VARIABLE].contains(name);
        if let Some(name) = name.to_str().filter(ours) {
            self.variables.insert(name.to_owned(), Variable(value));
        }
    }

    /// The value of a variable; an empty one counts as not set.
    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(|value| value.0.as_os_str()).filter(|value| !value.is_empty())
    }

    fn path(&self) -> Option<PathBuf> {
        let named = self.file.clone().or_else(|| self.variable(FILE_VARIABLE).map(PathBuf::from));
        let default = || self.directory.as_ref().map(|directory| in_directory(directory)).filter(|path| path.exists());
        named.or_else(default)
    }

    /// The layers of each source, the strongest last.
    fn sources(&self) -> Result<[Vec<Layer>; 4]> {
        let file = self.path().map(|path| Layer::file(&path)).transpose()?;
        let url =
            self.variable(DATABASE_VARIABLE).map(|url| unicode(url, "database.url", DATABASE_VARIABLE)).transpose()?;
        let url = url.map(|url| Layer::variable(DATABASE_VARIABLE, &["database", "url"], url));
        let mut variables = Vec::new();
        for name in self.variables.keys().filter(|name| name.starts_with(PREFIX)) {
            let Some(value) = self.variable(name) else { continue };
            let lower = name[PREFIX.len()..].to_lowercase();
            let path: Vec<_> = lower.split("__").collect();
            variables.push(Layer::variable(name, &path, unicode(value, &path.join("."), name)?));
        }
        let flag = self.database_url.as_ref().and_then(super::Secret::as_text);
        let flag = flag.map(|url| Layer::variable("--database-url", &["database", "url"], url));
        Ok([file.into_iter().collect(), url.into_iter().collect(), variables, flag.into_iter().collect()])
    }

    fn layers(&self) -> Result<Figment> {
        let mut sources = self.sources()?;
        for strong in 1..sources.len() {
            let (weaker, stronger) = sources.split_at_mut(strong);
            for layer in &stronger[0] {
                weaker.iter_mut().flatten().for_each(|weak| weak.leave_forms_to(layer));
            }
        }
        Ok(sources.into_iter().flatten().fold(Figment::new(), Figment::merge))
    }
}

/// Keys that give one value in several forms. A stronger source replaces all of them.
const FORMS: [&[&str]; 4] = [
    &["url", "url_file", "url_command"],
    &["password", "password_file"],
    &["operator_secret", "operator_secret_file"],
    &["reader_secret", "reader_secret_file"],
];

/// Removes from a table the values that a stronger one gives in another form; also from the tables in it.
fn leave_forms(weak: &mut Dict, strong: &Dict) {
    for forms in FORMS.iter().filter(|forms| forms.iter().any(|form| strong.contains_key(*form))) {
        weak.retain(|key, _| !forms.contains(&key.as_str()));
    }
    for (key, value) in weak {
        if let (Value::Dict(_, weak), Some(Value::Dict(_, strong))) = (value, strong.get(key)) {
            leave_forms(weak, strong);
        }
    }
}

impl Settings {
    /// Loads the settings: `--database-url` over `OUTBOX__…` over `DATABASE_URL` over the TOML file over the defaults.
    ///
    /// `OUTBOX__WORKER__BATCH_SIZE=50` sets `batch_size` under `[worker]`: `__` separates, case does not matter. The file
    /// is the one named in the options, or in `OUTBOX_CONFIG`, or `outbox.toml` if it exists.
    ///
    /// # Errors
    /// If a file cannot be read, a key is unknown, or a value is of the wrong type or out of range.
    pub fn load(options: &LoadOptions) -> Result<Self> {
        let mut settings = from_layers(&options.layers()?)?;
        if let Some(url) = options.database_url.as_ref().filter(|url| url.as_text().is_none()) {
            settings.database.url = url.clone();
        }
        Ok(settings)
    }

    /// Reads the settings from TOML only, without the environment.
    ///
    /// # Errors
    /// If the text is not valid TOML, a key is unknown, or a value is of the wrong type or out of range.
    pub fn from_toml(text: &str) -> Result<Self> {
        from_layers(&Figment::from(Layer::toml(TEXT_ORIGIN.to_owned(), text)?))
    }
}

fn from_layers(figment: &Figment) -> Result<Settings> {
    // The layers hold data that is already parsed, so none of them can fail.
    let merged = figment.data().ok().and_then(|mut profiles| profiles.remove(&Profile::Default)).unwrap_or_default();
    let origins = Origins::new(figment);
    let settings = read::settings(Node::root(&origins, merged))?;
    settings.check_from(&|key| origins.origin_of(key))?;
    Ok(settings)
}

/// One source of values.
struct Layer {
    origin: String,
    /// The values are texts, to be parsed as the type of their key.
    is_text: bool,
    dict: Dict,
}

impl Layer {
    fn file(path: &Path) -> Result<Self> {
        let origin = path.display().to_string();
        let read = std::fs::read(path).map_err(|error| error.to_string());
        match read.and_then(|bytes| decode(bytes).map_err(|what| format!("it is {what}; write it as UTF-8"))) {
            Ok(text) => Self::toml(origin, &text),
            Err(reason) => Err(SettingsError::Unreadable { path: origin, reason }),
        }
    }

    /// Parses TOML. An error shows nothing of the text: the line may contain a password.
    fn toml(origin: String, text: &str) -> Result<Self> {
        match Toml::from_str::<Dict>(text) {
            Ok(mut dict) => {
                rename_aliases(&mut dict, &origin)?;
                Ok(Self { origin, is_text: false, dict })
            }
            Err(error) => {
                let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
                let reason = format!("line {line} is not valid TOML: {}", error.message().replace('\n', ", "));
                Err(SettingsError::Unreadable { path: origin, reason })
            }
        }
    }

    fn leave_forms_to(&mut self, stronger: &Self) {
        leave_forms(&mut self.dict, &stronger.dict);
    }

    fn variable(name: &str, path: &[&str], text: &str) -> Self {
        let mut path = path.to_vec();
        if path == ["worker", ALIAS] {
            path[1] = ALIASED;
        }
        let value = path
            .iter()
            .skip(1)
            .rev()
            .fold(Value::from(text), |inner, segment| Value::from(Dict::from([((*segment).to_owned(), inner)])));
        Self { origin: name.to_owned(), is_text: true, dict: Dict::from([(path[0].to_owned(), value)]) }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let metadata = Metadata::named(self.origin.clone());
        if self.is_text { metadata.source(Source::Custom("text".to_owned())) } else { metadata }
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

const ALIAS: &str = "sleep_time";
const ALIASED: &str = "poll_interval";

/// Renames aliases before the layers are merged, so that the higher layer wins under either name.
fn rename_aliases(dict: &mut Dict, origin: &str) -> Result<()> {
    let Some(Value::Dict(_, worker)) = dict.get_mut("worker") else { return Ok(()) };
    let Some(value) = worker.remove(ALIAS) else { return Ok(()) };
    if worker.insert(ALIASED.to_owned(), value).is_some() {
        let problem = format!("is an alias of `worker.{ALIASED}`, which is set too: set only one");
        return Err(SettingsError::Invalid { key: format!("worker.{ALIAS}"), origin: origin.to_owned(), problem });
    }
    Ok(())
}

fn in_directory(directory: &Path) -> PathBuf {
    if directory == Path::new(".") { PathBuf::from(DEFAULT_FILE) } else { directory.join(DEFAULT_FILE) }
}

fn unicode<'a>(value: &'a OsStr, key: &str, name: &str) -> Result<&'a str> {
    value.to_str().ok_or_else(|| SettingsError::Invalid {
        key: key.to_owned(),
        origin: name.to_owned(),
        problem: "must be UTF-8".to_owned(),
    })
}

#[cfg(test)]
mod tests;
