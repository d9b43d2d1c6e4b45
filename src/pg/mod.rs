//! All unsafe code, and all differences between Postgres majors. Nothing here knows the tables of jobq.

pub mod blocks;
pub mod call;
pub mod counts;
pub mod datum;
pub mod define;
pub mod doorbell;
pub mod grant;
pub mod handler;
pub mod heap;
pub mod leases;
pub mod notes;
pub mod pools;
pub mod process;
#[cfg(any(test, feature = "pg_test"))]
pub mod quiet;
pub mod roster;
pub mod row;
pub mod server;
pub mod shape;
pub mod shmem;
pub mod spi;
pub mod stripes;
pub mod switch;
pub mod table;
pub mod two_phase;
pub mod waiting;
pub mod xact;
