//! Publishing with the connections of other drivers.

mod batch;
pub mod tokio_postgres;
#[cfg(test)]
mod tokio_postgres_tests;
