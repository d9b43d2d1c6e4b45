//! What is true without Postgres: no pgrx, no clock, no randomness of its own.

pub mod backoff;
pub mod cron;
pub mod lease;
pub mod limits;
pub mod names;
pub mod pool;
pub mod ring;
pub mod span;
pub mod state;
pub mod timetable;
pub mod wall_clock;

#[cfg(test)]
#[allow(clippy::expect_used, clippy::arithmetic_side_effects)]
mod tests;

#[cfg(test)]
#[allow(clippy::expect_used, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
mod cron_tests;

#[cfg(test)]
#[allow(clippy::expect_used, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
mod cron_thrown_tests;
