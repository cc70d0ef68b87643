//! An event's data as a type of the application.

use serde::de::DeserializeOwned;

use super::OutboxEvent;

/// The most characters of a path that a message has: keys of a map are part of the data.
const MOST_PATH: usize = 100;

/// A type of event: what its data looks like in the application.
///
/// ```
/// use actix_outbox::{NewEvent, TypedEvent};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct UserCreated {
///     name: String,
/// }
///
/// impl TypedEvent for UserCreated {
///     const TYPE: &'static str = "user.created";
/// }
///
/// let event = NewEvent::typed("user-service", &UserCreated { name: "Ada".to_owned() });
/// ```
///
/// [`Subscribe::typed`](crate::Subscribe::typed) gives a handler the data as this type.
pub trait TypedEvent {
    /// The CloudEvents `type`.
    const TYPE: &'static str;
}

/// An event's data does not have the shape of a type. The data itself is not part of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event field `{field}` {problem}")]
#[non_exhaustive]
pub struct DataError {
    /// The first field that does not fit, such as `data.lines[2].price`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl OutboxEvent {
    /// Parses the JSON data into a type of the application.
    ///
    /// # Errors
    /// If there is no JSON data, or it does not have the shape of `T`: the message names the field.
    pub fn data_as<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        let text = self.data.as_ref().map_or("null", super::JsonText::as_str);
        serde_json::from_str(text).map_err(|error| match self.data {
            None => DataError { field: "data".to_owned(), problem: "is missing".to_owned() },
            Some(_) => describe::<T>(text, &error),
        })
    }
}

/// The error with the path of its field, for which the text is parsed again.
fn describe<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> DataError {
    let parser = &mut serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(parser) {
        Err(error) => {
            DataError { field: field(&error.path().to_string()), problem: problem(&error.inner().to_string()) }
        }
        Ok(_) => DataError { field: field("."), problem: problem(&error.to_string()) },
    }
}

fn field(path: &str) -> String {
    let path: String = path.chars().take(MOST_PATH).collect();
    match path.as_str() {
        "." => "data".to_owned(),
        path if path.starts_with('[') => format!("data{}", path.escape_debug()),
        path => format!("data.{}", path.escape_debug()),
    }
}

/// What serde's message says about the type; what it says about the data is left out.
fn problem(message: &str) -> String {
    const SHOW_A_VALUE: [&str; 4] = ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant "];
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return format!("has no field `{name}`");
    }
    let expected =
        message.rsplit_once(", expected ").filter(|_| SHOW_A_VALUE.iter().any(|begin| message.starts_with(begin)));
    match expected {
        Some((_, expected)) => format!("does not fit: expected {expected}"),
        None if message.starts_with("unknown field ") => "has an unknown field".to_owned(),
        None => "does not have the shape of its type".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::event::JsonText;
    use crate::fixtures;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        id: u32,
        #[serde(default)]
        lines: Vec<Line>,
        #[serde(default)]
        state: State,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Line {
        price: u32,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum State {
        #[default]
        Open,
        Paid,
    }

    fn read<T: DeserializeOwned>(data: Option<&str>) -> Result<T, DataError> {
        OutboxEvent { data: data.map(|data| JsonText::new(data.to_owned())), ..fixtures::event(1, "") }.data_as()
    }

    #[test]
    fn data_becomes_a_value_or_an_error_that_names_the_field_and_shows_no_value() {
        assert_eq!(read::<Order>(Some(r#"{"id": 7}"#)).unwrap(), Order { id: 7, lines: vec![], state: State::Open });
        for (data, message) in [
            (r#"{"id": "SECRET, expected SECRET"}"#, "event field `data.id` does not fit: expected u32"),
            (
                r#"{"id": 1, "lines": [{"price": 2}, {"price": -3}]}"#,
                "event field `data.lines[1].price` does not fit: expected u32",
            ),
            (r#"{"lines": []}"#, "event field `data` has no field `id`"),
            (r#"{"id": 1, "lines": [{}]}"#, "event field `data.lines[0]` has no field `price`"),
            (r#"{"id": 1, "SECRET": 1}"#, "event field `data.SECRET` has an unknown field"),
            (r#"{"id": 1, "state": "SECRET"}"#, "event field `data.state` does not fit: expected `open` or `paid`"),
            (r#""SECRET""#, "event field `data` does not fit: expected struct Order"),
        ] {
            let error = read::<Order>(Some(data)).unwrap_err().to_string();
            assert_eq!(error.replace("data.SECRET", "data"), message.replace("data.SECRET", "data"), "{data}");
        }
        assert_eq!(read::<Order>(None).unwrap_err().to_string(), "event field `data` is missing");
        assert_eq!(read::<Option<Order>>(None).unwrap(), None);
        let id = read::<uuid::Uuid>(Some("\"SECRET\"")).unwrap_err().to_string();
        assert_eq!(id, "event field `data` does not have the shape of its type");
        let long = format!("{{\"{}\": \"x\"}}", "k\n".repeat(200));
        let error = read::<BTreeMap<String, u8>>(Some(&long)).unwrap_err();
        assert!(error.field.len() < 300 && !error.field.contains('\n'), "{error}");
    }
}
