//! Events as CloudEvents in the JSON format: written for other systems, and read from other producers.

mod attributes;
mod decode;
mod encode;
#[cfg(feature = "consumer")]
mod receive;

pub use self::attributes::CLOUD_EVENT_NAMESPACE;
#[cfg(any(feature = "redis", feature = "http-backend"))]
pub(crate) use self::attributes::object_pairs;
pub(crate) use self::attributes::{RESERVED_NAMES, derived_id};
pub(crate) use self::encode::attributes;
#[cfg(feature = "redis")]
pub(crate) use self::encode::push_isoformat;
pub(crate) use self::encode::to_json;
