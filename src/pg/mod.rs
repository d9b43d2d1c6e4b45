//! All unsafe code, and all differences between Postgres majors. Nothing here knows what a job is.

pub mod call;
pub mod datum;
pub mod grant;
pub mod heap;
pub mod process;
pub mod row;
pub mod server;
pub mod shape;
pub mod shmem;
pub mod spi;
pub mod switch;
pub mod table;
pub mod xact;
