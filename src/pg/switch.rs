//! The one privilege switch.
//!
//! EXECUTE on a function decides who may call it. Inside, everything runs as the owner of the extension's tables, in a
//! security-restricted context (no temporary tables, no deferred work that would outlive the switch), with a search_path that no
//! user can fill. No user code runs here and no transaction ends here.

use super::spi::{Session, connected};
use crate::error::Error;
use pgrx::pg_sys;
use std::ffi::{CStr, c_int};

type Setting = (&'static CStr, &'static CStr);

/// Runs `body` as the extension's owner, connected to SPI.
pub fn as_owner<T>(body: impl FnOnce(&Session) -> Result<T, Error>) -> Result<T, Error> {
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
        let outcome = with_settings(&[(c"search_path", c"pg_catalog, pg_temp")], || connected(body));
        pg_sys::SetUserIdAndSecContext(caller, context);
        outcome
    }
}

/// Runs `body`, which may not wait long for a lock: 55P03.
pub fn without_long_waits<T>(body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    with_settings(&[(c"lock_timeout", c"200ms")], body)
}

/// Runs `body` with some settings changed.
pub(super) fn with_settings<T>(settings: &[Setting], body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    // SAFETY: the settings made at the new level are popped here, or by the abort of the (sub)transaction.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            set_local(name, value);
        }
        let outcome = body();
        pg_sys::AtEOXact_GUC(false, level);
        outcome
    }
}

/// SET LOCAL, undone with the settings level it is made in.
fn set_local(name: &CStr, value: &CStr) {
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
