//! Redis: where its servers are, what its errors mean, and the backends that send to it.

mod address;
mod client;
mod errors;
mod inspection;
mod messages;
mod replicas;
mod reply;
mod script;
#[cfg(feature = "consumer")]
pub(crate) mod source;
pub(crate) mod stream;

use self::address::Address;
use self::client::Client;
use self::reply::Reply;
use self::script::Script;

pub(crate) use self::messages::{MessageKind, RedisMessages};
pub(crate) use self::stream::RedisStream;
