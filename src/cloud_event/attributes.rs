//! Names, ids and the order of a CloudEvent's attributes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::{Uuid, uuid};

/// Attribute names that CloudEvents defines, which an extension cannot use.
pub(crate) const RESERVED_NAMES: [&str; 10] =
    ["specversion", "type", "source", "id", "time", "subject", "datacontenttype", "dataschema", "data", "data_base64"];

/// The namespace of the version 5 UUIDs that this library derives for CloudEvents whose id is not a UUID.
///
/// The name in it is the event's `source`, a line feed, and its `id`.
pub const CLOUD_EVENT_NAMESPACE: Uuid = uuid!("92c7ef9c-8473-4892-9e64-9b5a1af2e369");

/// The row's id for another producer's event. No attribute contains a line feed, so no two pairs share a name.
pub(crate) fn derived_id(source: &str, id: &str) -> Uuid {
    Uuid::new_v5(&CLOUD_EVENT_NAMESPACE, format!("{source}\n{id}").as_bytes())
}

/// The pairs of a JSON object in the order of its text, with unparsed values.
pub(crate) fn object_pairs(text: &str) -> serde_json::Result<Vec<(Cow<'_, str>, &RawValue)>> {
    if text == "{}" {
        return Ok(Vec::new());
    }
    serde_json::from_str::<Pairs<'_>>(text).map(|pairs| pairs.0)
}

struct Pairs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    pairs.push((name, value));
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
