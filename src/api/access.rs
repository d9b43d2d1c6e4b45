//! grant_access, revoke_access: who may call what.
//!
//! The accesses are lists of functions, disjoint but for `admin`, which has all. EXECUTE is the whole of it; Postgres checks it,
//! pg_dump keeps it, DROP ROLE minds it.

use super::required;
use crate::error::Error;
use crate::pg::call::{Answer, Call, Outcome};
use crate::pg::grant::{Object, change, role_exists};
use crate::pg::switch::as_owner;
use crate::store;
use pgrx::pg_sys::Oid;

const PRODUCER: &[&str] = &["enqueue", "enqueue_many", "enqueue_jobs", "cancel", "reschedule"];
const WORKER: &[&str] = &[
    "claim",
    "claim_wait",
    "complete_and_claim",
    "complete",
    "complete_many",
    "fail",
    "release",
    "heartbeat",
    "heartbeat_many",
    "rescue_zombies",
];
/// For roles as which pools run.
const HANDLER: &[&str] = &["snooze", "discard"];
/// The private functions are what the views ask.
const READER: &[&str] =
    &["job", "why", "stats", "diagnose", "preview", "_workers", "_pool_workers", "_seen_at", "_lease_expires_at", "_progress"];
const OPERATOR: &[&str] = &[
    "create_queue",
    "alter_queue",
    "drop_queue",
    "pause",
    "resume",
    "retry",
    "retry_failed",
    "delete",
    "purge",
    "schedule",
    "alter_schedule",
    "unschedule",
    "pause_schedule",
    "resume_schedule",
    "run_now",
    "resume_after_restore",
    "tick",
    "create_handler",
    "drop_handler",
    "create_pool",
    "alter_pool",
    "drop_pool",
    "start_pool",
    "stop_pool",
    "restart_pool",
    "resize_pool",
    "import_pg_cron",
    "grant_access",
    "revoke_access",
];
/// What everybody with any access has.
const COMMON: &[&str] = &["version"];
const VIEWS: &[&str] =
    &["jobs", "running_jobs", "failed_jobs", "queues", "schedules", "workers", "handlers", "pools", "pool_workers"];

/// The lists of one access, and whether it has the views.
fn parts(access: &str) -> Result<(Vec<&'static [&'static str]>, bool), Error> {
    match access {
        "producer" => Ok((vec![PRODUCER], false)),
        "worker" => Ok((vec![WORKER], false)),
        "reader" => Ok((vec![READER], true)),
        "handler" => Ok((vec![HANDLER], false)),
        "admin" => Ok((vec![PRODUCER, WORKER, READER, HANDLER, OPERATOR], true)),
        _ => Err(Error::invalid_value("access", "be producer, worker, reader, handler or admin", access.escape_debug())),
    }
}

/// Runs the change and tells whether the role's rights differ afterwards.
fn run(call: &Call, grant: bool) -> Outcome {
    let role: Oid = required(call.oid(0), "role")?;
    let access_argument = required(call.text(1), "access")?;
    let (functions, views) = parts(access_argument.utf8("access")?)?;
    if !role_exists(role) {
        return Err(Error::UnknownRole);
    }
    let changed = as_owner(|session| {
        let before = store::inspect::rights(session, role)?;
        if grant {
            change(true, &Object::Schema, role);
            change(true, &Object::Functions(COMMON), role);
        }
        for list in functions {
            change(grant, &Object::Functions(list), role);
        }
        if views {
            change(grant, &Object::Views(VIEWS), role);
        }
        // Nothing but the common part is left: take that too.
        let common = i64::try_from(COMMON.len()).unwrap_or(0).saturating_add(1);
        if !grant && store::inspect::rights(session, role)? <= common {
            change(false, &Object::Functions(COMMON), role);
            change(false, &Object::Schema, role);
        }
        Ok(store::inspect::rights(session, role)? != before)
    })?;
    Ok(Answer::Bool(changed))
}

/// `jobq.grant_access(role, access)`
pub fn grant_access(call: &Call) -> Outcome {
    run(call, true)
}

/// `jobq.revoke_access(role, access)`
pub fn revoke_access(call: &Call) -> Outcome {
    run(call, false)
}
