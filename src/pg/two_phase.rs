//! COMMIT PREPARED and ROLLBACK PREPARED: no transaction callback tells what the prepared transaction had done, so all that is known of
//! this database's queues is forgotten, its jobs are counted anew, and running ones may have been cancelled.

use super::{counts, doorbell, server, shmem, stripes};
use pgrx::pg_sys;
use std::ffi::c_char;

static mut NEXT: pg_sys::ProcessUtility_hook_type = None;

/// Once per process, from _PG_init.
pub fn register() {
    // SAFETY: libraries are loaded on one thread, one after the other.
    unsafe {
        NEXT = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(utility);
    }
}

unsafe extern "C-unwind" {
    // Postgres's own, without pgrx's guard: an error that passes through the guard loses an SQLSTATE that pgrx does not know.
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        text: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        receiver: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// An ERROR of the statement jumps over this frame, in which nothing needs to be dropped.
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: Postgres passes a valid statement, which may be gone when it has run: it is looked at before.
    unsafe {
        let ends_prepared = ends_prepared((*statement).utilityStmt);
        match NEXT {
            Some(next) => next(statement, text, read_only_tree, context, params, environment, receiver, completion),
            None => standard_ProcessUtility(statement, text, read_only_tree, context, params, environment, receiver, completion),
        }
        if ends_prepared {
            stripes::forget_database(server::database_oid().to_u32());
            shmem::count_cancel();
            counts::ask();
            doorbell::ring_all();
        }
    }
}

/// # Safety
/// A valid node.
unsafe fn ends_prepared(node: *mut pg_sys::Node) -> bool {
    use pg_sys::TransactionStmtKind::{TRANS_STMT_COMMIT_PREPARED, TRANS_STMT_ROLLBACK_PREPARED};
    // SAFETY: the tag says what the node is.
    unsafe {
        (*node).type_ == pg_sys::NodeTag::T_TransactionStmt
            && matches!((*node.cast::<pg_sys::TransactionStmt>()).kind, TRANS_STMT_COMMIT_PREPARED | TRANS_STMT_ROLLBACK_PREPARED)
    }
}
