//! Emptying a table of the extension.

use super::switch::table_oid;
use pgrx::pg_sys;
use std::ffi::{CString, c_int};

/// Takes the table for this transaction alone, without waiting: a queue of waiters behind a reader would stop every writer.
pub fn lock_without_waiting(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    let oid = table_oid(&name);
    // SAFETY: a heavyweight lock, released at the end of the transaction.
    oid != pg_sys::InvalidOid && unsafe { pg_sys::ConditionalLockRelationOid(oid, pg_sys::AccessExclusiveLock as c_int) }
}

/// TRUNCATE, as a parse tree: no SQL text is built. The caller holds the lock and is the owner.
pub fn truncate(name: &str) {
    let copy = |text: &str| {
        // SAFETY: copies the bytes and adds the terminating zero.
        unsafe { pg_sys::pnstrdup(text.as_ptr().cast(), text.len()) }
    };
    // SAFETY: the nodes are palloc'd, as the parser makes them, and live until the statement is over.
    unsafe {
        let statement: *mut pg_sys::TruncateStmt = pg_sys::palloc0(size_of::<pg_sys::TruncateStmt>()).cast();
        (*statement).type_ = pg_sys::NodeTag::T_TruncateStmt;
        let table = pg_sys::makeRangeVar(copy("jobq"), copy(name), -1);
        (*statement).relations = pg_sys::lappend(std::ptr::null_mut(), table.cast());
        (*statement).behavior = pg_sys::DropBehavior::DROP_RESTRICT;
        pg_sys::ExecuteTruncate(statement);
    }
}
