//! Backends that receive each event once: [`BackendSession`] and its conformance suite (feature `unstable-sessions`; this may
//! still change).
//!
//! Register one with [`Builder::session_backend`](crate::Builder::session_backend).

pub mod conformance;

pub use crate::backend::inspection::{BackendFacts, GroupFacts, StreamFacts, StreamLimit};
pub use crate::backend::session::{
    BackendSession, BatchResult, JournalEntry, OutgoingEvent, SendResult, ShardsOpened, Unavailable, next_token,
};
pub use crate::store::Shard;
