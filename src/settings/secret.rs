//! Text that stays out of logs and messages.

use std::fmt;

const MASK: &str = "***";

/// A password, or an address that may hold one.
///
/// `Debug` and `Display` show an address without its password, and nothing of any other text. It is never serialized.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether no text was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({self})")
    }
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
            assert_eq!(Secret::from(given).expose(), given);
        }
    }
}
