//! The one privilege switch.
//!
//! EXECUTE on a function decides who may call it. Inside, everything runs as the owner of the extension's tables, in a
//! security-restricted context (no temporary tables, no deferred work that would outlive the switch), with a search_path that no
//! user can fill, and with the planner settings the statements were written for. No user code runs here and no transaction ends here.

use super::spi::{Session, connected};
use crate::error::Error;
use pgrx::pg_sys;
use std::ffi::{CStr, c_int};

/// How statements are planned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Planner {
    /// Statements that must go through an index, whatever the statistics say: a queue table is empty one moment and has a million
    /// rows the next, and a generic plan outlives both.
    ByIndex,
    /// Statements that may scan.
    Free,
}

type Setting = (&'static CStr, &'static CStr);

const SEARCH_PATH: Setting = (c"search_path", c"pg_catalog, pg_temp");
/// Compiling a statement of ours takes a hundred times as long as running it.
const NO_JIT: Setting = (c"jit", c"off");

/// Also what the user may have set: a plan forced to nested loops or away from indexes stays right, only these make it fast.
const BY_INDEX: &[Setting] = &[
    SEARCH_PATH,
    NO_JIT,
    (c"enable_seqscan", c"off"),
    (c"enable_bitmapscan", c"off"),
    (c"enable_indexscan", c"on"),
    (c"enable_nestloop", c"on"),
    (c"enable_hashjoin", c"off"),
    (c"enable_mergejoin", c"off"),
];
const FREE: &[Setting] = &[SEARCH_PATH, NO_JIT];

/// Runs `body` as the extension's owner, connected to SPI.
pub fn as_owner<T>(planner: Planner, body: impl FnOnce(&Session) -> Result<T, Error>) -> Result<T, Error> {
    let owner = owner()?;
    let (mut caller, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: plain reads and writes of this backend's user id and security context. If `body` raises a Postgres ERROR, the abort
    // of the (sub)transaction restores both and pops the settings, as it does for a SECURITY DEFINER function.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut caller, &mut context);
        pg_sys::SetUserIdAndSecContext(
            owner,
            context | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as c_int,
        );
        let outcome = planned(planner, || connected(body));
        pg_sys::SetUserIdAndSecContext(caller, context);
        outcome
    }
}

/// Runs `body` with the settings of one planner mode. A statement keeps the plan of whoever plans it first: those that go by an id
/// or a queue must be planned, and planned again, by index wherever they are called from.
pub fn planned<T>(planner: Planner, body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    // SAFETY: the settings made at the new level are popped here, or by the abort of the (sub)transaction.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in if planner == Planner::ByIndex { BY_INDEX } else { FREE } {
            set_local(name, value);
        }
        let outcome = body();
        pg_sys::AtEOXact_GUC(false, level);
        outcome
    }
}

/// SET LOCAL, undone with the settings level it is made in.
pub(super) fn set_local(name: &CStr, value: &CStr) {
    // SAFETY: both strings are zero-terminated; set_config_option copies the value.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// The owner of the job table, from the catalog caches.
fn owner() -> Result<pg_sys::Oid, Error> {
    // SAFETY: syscache look-ups in a transaction; the tuple is released before the function returns.
    unsafe {
        let table = table_oid(c"_job");
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as c_int, pg_sys::Datum::from(table));
        if tuple.is_null() {
            return Err(Error::internal("the table jobq._job is missing"));
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Ok(owner)
    }
}

/// The oid of a table of the extension; InvalidOid when it is not there.
pub(super) fn table_oid(name: &CStr) -> pg_sys::Oid {
    // SAFETY: syscache look-ups in a transaction; missing objects give InvalidOid.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"jobq".as_ptr(), true);
        if schema == pg_sys::InvalidOid { schema } else { pg_sys::get_relname_relid(name.as_ptr(), schema) }
    }
}
