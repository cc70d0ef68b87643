#![doc = include_str!("../README.md")]

mod backend;
pub mod blocking;
#[cfg(feature = "cli")]
pub mod cli;
mod cloud_event;
mod error;
mod event;
mod publish;
mod settings;
mod store;
mod system;
