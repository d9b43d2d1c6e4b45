//! The background processes.
//!
//! A launcher, without a database, keeps one maintainer in each database where the extension is installed. The maintainer runs the
//! duties, one short transaction each, and holds none in between. `jobq.tick()` runs the same duties by hand.

pub mod doorbell;
pub mod executor;
pub mod launcher;
pub mod maintainer;
pub mod pools;
pub mod proposals;
pub mod releases;
pub mod rescue;
pub mod retention;
pub mod schedules;
pub mod tombstones;

use crate::error::Error;
use crate::pg;
use crate::pg::spi::Session;
use crate::store;

/// Schema versions this library can serve. A maintainer stands down on any other.
pub const KNOWN_SCHEMAS: [&str; 1] = [env!("CARGO_PKG_VERSION")];

/// May duties run here? Not in a restored or copied database, until somebody says so.
pub fn is_original(session: &Session) -> Result<bool, Error> {
    store::inspect::is_original(session, pg::server::database_oid())
}
