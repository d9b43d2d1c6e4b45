//! What is true without Postgres: no pgrx, no clock, no randomness of its own.

pub mod backoff;
pub mod lease;
pub mod limits;
pub mod names;
pub mod pool;
pub mod ring;
pub mod span;
pub mod state;

#[cfg(test)]
#[allow(clippy::expect_used, clippy::arithmetic_side_effects)]
mod tests;
