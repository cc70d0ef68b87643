//! A merged value before its conversion: its path, its origin, and the types as which it can be read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use figment::Figment;
use figment::value::{Dict, Num, Tag, Value};

use super::nearest::nearest;
use super::read::known_elsewhere;
use super::units::{self, DURATION_FORMATS, SIZE};
use crate::error::SettingsError;

pub(super) type Result<T, E = SettingsError> = std::result::Result<T, E>;

/// The origins of values, recorded by key for the checks after reading.
pub(super) struct Origins<'a> {
    figment: &'a Figment,
    seen: RefCell<BTreeMap<String, String>>,
}

impl<'a> Origins<'a> {
    pub(super) fn new(figment: &'a Figment) -> Self {
        Self { figment, seen: RefCell::default() }
    }

    /// The origin of a key, or of the nearest table around it.
    pub(super) fn origin_of(&self, key: &str) -> String {
        let seen = self.seen.borrow();
        let mut key = key;
        loop {
            if let Some(origin) = seen.get(key) {
                return origin.clone();
            }
            match key.rsplit_once('.') {
                Some((parent, _)) => key = parent,
                None => return "the defaults".to_owned(),
            }
        }
    }
}

/// One value.
#[derive(Clone)]
pub(super) struct Node<'a> {
    key: String,
    value: Value,
    origin: String,
    /// The value is an environment variable's text, to be parsed as the expected type.
    is_text: bool,
    origins: &'a Origins<'a>,
}

/// A value that is a table of known keys.
pub(super) struct Table<'a> {
    node: Node<'a>,
    dict: Dict,
}

impl<'a> Node<'a> {
    pub(super) fn root(origins: &'a Origins<'a>, dict: Dict) -> Self {
        Self { key: String::new(), value: Value::from(dict), origin: String::new(), is_text: false, origins }
    }

    fn child(&self, name: &str, value: Value) -> Node<'a> {
        let key = if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) };
        let (origin, is_text) = match self.origins.figment.get_metadata(value.tag()) {
            Some(metadata) if value.tag() != Tag::Default => {
                (metadata.name.to_string(), metadata.source.as_ref().is_some_and(|source| source.custom().is_some()))
            }
            _ => (self.origin.clone(), false),
        };
        self.origins.seen.borrow_mut().insert(key.clone(), origin.clone());
        Node { key, value, origin, is_text, origins: self.origins }
    }

    pub(super) fn invalid(&self, problem: impl Into<String>) -> SettingsError {
        SettingsError::Invalid { key: self.key.clone(), origin: self.origin.clone(), problem: problem.into() }
    }

    /// An error that shows the value, which was not of the expected kind.
    pub(super) fn expected(&self, what: &str) -> SettingsError {
        self.invalid(format!("must be {what}, not {}", described(&self.value)))
    }

    /// The text of a TOML string or an environment variable.
    fn as_text(&self) -> Option<&str> {
        self.value.as_str()
    }

    fn env_text(&self) -> Option<&str> {
        self.as_text().filter(|_| self.is_text)
    }

    /// Parses an environment variable's text as JSON, or as a TOML value.
    fn structured(&self) -> Value {
        let Some(text) = self.env_text() else { return self.value.clone() };
        let json = serde_json::from_str::<serde_json::Value>(text).ok().and_then(|json| Value::serialize(json).ok());
        json.unwrap_or_else(|| Value::from_str(text).unwrap_or_else(|never| match never {}))
    }

    pub(super) fn dict(&self) -> Result<Dict> {
        match self.structured() {
            Value::Dict(_, dict) => Ok(dict),
            _ => Err(self.expected("a table")),
        }
    }

    /// The entries of a table with arbitrary keys.
    pub(super) fn children(&self) -> Result<Vec<(String, Node<'a>)>> {
        Ok(self.dict()?.into_iter().map(|(name, value)| (name.clone(), self.child(&name, value))).collect())
    }

    /// A table that has only these keys.
    pub(super) fn table(self, known: &[&str]) -> Result<Table<'a>> {
        let dict = self.dict()?;
        match dict.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, value)) => Err(self.child(name, value.clone()).unknown(name, &self.key, known)),
            None => Ok(Table { node: self, dict }),
        }
    }

    fn unknown(self, name: &str, parent: &str, known: &[&str]) -> SettingsError {
        let sibling = nearest(name, known.iter().copied())
            .map(|near| if parent.is_empty() { near.to_owned() } else { format!("{parent}.{near}") });
        let nearest = sibling.or_else(|| known_elsewhere(name));
        SettingsError::UnknownKey { key: self.key, origin: self.origin, nearest }
    }

    pub(super) fn string(&self) -> Result<String> {
        self.as_text().map(str::to_owned).ok_or_else(|| self.expected("a text in quotes"))
    }

    /// Reads a text like [`string`](Self::string), without showing the value in errors.
    pub(super) fn secret(&self) -> Result<super::Secret> {
        self.as_text().map(super::Secret::from).ok_or_else(|| self.invalid("must be a quoted string"))
    }

    /// Reads the path of a file with a secret.
    pub(super) fn secret_file(&self) -> Result<super::Secret> {
        self.string().map(super::Secret::from_file)
    }

    /// Reads the words of a command that prints a secret.
    pub(super) fn secret_command(&self) -> Result<super::Secret> {
        let example = "must be a list such as [\"vault\", \"read\", \"-field=url\", \"secret/outbox\"]";
        let words = self.texts().filter(|words| !words.is_empty()).ok_or_else(|| self.invalid(example))?;
        Ok(super::Secret::from_command(words))
    }

    pub(super) fn bool(&self) -> Result<bool> {
        self.structured().to_bool().ok_or_else(|| self.expected("true or false"))
    }

    /// A boolean, if the value is one, for keys that accept other types too.
    pub(super) fn as_bool(&self) -> Option<bool> {
        self.structured().to_bool()
    }

    pub(super) fn integer<T: TryFrom<i128> + FromStr>(&self, expected: &str) -> Result<T> {
        let number = match (&self.value, self.env_text()) {
            (_, Some(text)) => text.trim().parse().ok(),
            (Value::Num(_, Num::F32(_) | Num::F64(_)), _) => None,
            (Value::Num(_, number), _) => {
                let whole = number.to_i128().or_else(|| number.to_u128().and_then(|n| i128::try_from(n).ok()));
                whole.and_then(|n| T::try_from(n).ok())
            }
            _ => None,
        };
        number.ok_or_else(|| self.expected(expected))
    }

    fn number(&self) -> Option<f64> {
        match (&self.value, self.env_text()) {
            (_, Some(text)) => text.trim().parse().ok(),
            (Value::Num(_, Num::F32(n)), _) => Some(f64::from(*n)),
            (Value::Num(_, Num::F64(n)), _) => Some(*n),
            (Value::Num(..), _) => self.integer::<i64>("").ok().map(|n| n as f64),
            _ => None,
        }
    }

    pub(super) fn float(&self, expected: &str) -> Result<f64> {
        self.number().ok_or_else(|| self.expected(expected))
    }

    pub(super) fn duration(&self) -> Result<Duration> {
        let parsed = match self.as_text() {
            Some(text) => units::parse_duration(text),
            None => self.number().and_then(units::seconds_to_duration),
        };
        parsed.ok_or_else(|| self.expected(DURATION_FORMATS))
    }

    pub(super) fn size(&self) -> Result<usize> {
        match self.as_text() {
            Some(text) => units::parse_size(text).ok_or_else(|| self.expected(SIZE)),
            None => self.integer(SIZE),
        }
    }

    fn texts(&self) -> Option<Vec<String>> {
        if let Some(text) = self.env_text().filter(|text| !text.trim_start().starts_with('[')) {
            return Some(text.split(',').map(|part| part.trim().to_owned()).collect());
        }
        let Value::Array(_, items) = self.structured() else { return None };
        items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
    }

    /// A list of texts; from the environment also `a,b`.
    pub(super) fn strings(&self) -> Result<Vec<String>> {
        self.texts().ok_or_else(|| self.expected("a list of strings such as [\"a\", \"b\"]"))
    }

    /// Reads a list like [`strings`](Self::strings), without showing the value in errors.
    pub(super) fn secrets(&self) -> Result<Vec<super::Secret>> {
        let texts = self.texts().ok_or_else(|| self.invalid("must be a list of strings such as [\"a\", \"b\"]"))?;
        Ok(texts.into_iter().map(super::Secret::from).collect())
    }

    /// A list, each item read by `read`; `example` is a valid item.
    pub(super) fn list<T>(&self, example: &str, read: impl Fn(Node<'a>) -> Result<T>) -> Result<Vec<T>> {
        let Value::Array(_, items) = self.structured() else {
            return Err(self.invalid(format!("must be a list such as [{example}]")));
        };
        items.into_iter().enumerate().map(|(n, item)| read(self.child(&n.to_string(), item))).collect()
    }

    /// Any value; an environment variable's text is parsed if it is JSON.
    pub(super) fn json(&self) -> Result<serde_json::Value> {
        if let Some(text) = self.env_text() {
            return Ok(serde_json::from_str(text).unwrap_or_else(|_| text.into()));
        }
        match &self.value {
            Value::Dict(..) => {
                let pairs = self.children()?.into_iter().map(|(name, node)| Ok((name, node.json()?)));
                pairs.collect::<Result<serde_json::Map<_, _>>>().map(Into::into)
            }
            value => serde_json::to_value(value).map_err(|_| self.expected("a value that JSON can hold")),
        }
    }
}

impl<'a> Table<'a> {
    pub(super) fn node(&self) -> &Node<'a> {
        &self.node
    }

    pub(super) fn get(&self, name: &str) -> Option<Node<'a>> {
        self.dict.get(name).map(|value| self.node.child(name, value.clone()))
    }

    /// Checks that not two keys are given for one value.
    pub(super) fn at_most_one_of(&self, names: &[&str]) -> Result<()> {
        let mut given = names.iter().filter_map(|name| self.get(name));
        match (given.next(), given.next()) {
            (Some(first), Some(second)) => Err(second.invalid(format!("conflicts with `{}`: set only one", first.key))),
            _ => Ok(()),
        }
    }

    /// Reads a key if it is given; otherwise `into` keeps its value.
    pub(super) fn read<T>(&self, name: &str, into: &mut T, read: impl FnOnce(&Node<'a>) -> Result<T>) -> Result<()> {
        if let Some(node) = self.get(name) {
            *into = read(&node)?;
        }
        Ok(())
    }
}

fn described(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Char(_, c) => format!("{:?}", c.to_string()),
        Value::Bool(_, bool) => bool.to_string(),
        Value::Num(..) => serde_json::to_string(value).unwrap_or_else(|_| "a number".to_owned()),
        Value::Empty(..) => "nothing".to_owned(),
        Value::Dict(..) => "a table".to_owned(),
        Value::Array(..) => "a list".to_owned(),
    }
}
