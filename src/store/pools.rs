//! Handlers and pools: what operators write and what the supervisor and the workers read.

use super::statement;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pg::datum::Text;
use crate::pg::handler::{Function, Parcel};
use crate::pg::spi::{Param, Session};
use crate::rules::pool::{Policy, Reason, Restart};
use pgrx::pg_sys::Oid;
use uuid::Uuid;

/// What is to be known before a function becomes a handler.
pub struct HandlerFacts {
    pub function_exists: bool,
    pub takes_a_job: bool,
    pub answers_jsonb_or_nothing: bool,
    pub role: RoleFacts,
    pub may_execute: bool,
}

pub struct RoleFacts {
    pub exists: bool,
    pub may_log_in: bool,
    pub is_superuser: bool,
    pub has_caller_as_member: bool,
    pub may_connect: bool,
}

/// `function`: InvalidOid when only the role matters.
pub fn handler_facts(session: &Session, function: Oid, role: Oid, caller: Oid) -> Result<HandlerFacts, Error> {
    statement!(FACTS, "handler_facts", [Oid, Oid, Oid], Free);
    let rows = session.run(&FACTS, &[function.into(), role.into(), caller.into()])?;
    let is = |column| rows.boolean(0, column).unwrap_or(false);
    Ok(HandlerFacts {
        function_exists: is(1),
        takes_a_job: is(2),
        answers_jsonb_or_nothing: is(3),
        role: RoleFacts {
            exists: is(4),
            may_log_in: is(5),
            is_superuser: is(6),
            has_caller_as_member: is(7),
            may_connect: is(9),
        },
        may_execute: is(8),
    })
}

/// False when the kind has a handler.
pub fn create_handler(session: &Session, kind: &str, function: Oid, run_as: Oid, by: Oid, now: Timestamp) -> Result<bool, Error> {
    statement!(CREATE, "create_handler", [Text, Oid, Oid, Oid, Timestamp], Free);
    Ok(session.run(&CREATE, &[kind.into(), function.into(), run_as.into(), by.into(), now.into()])?.count() == 1)
}

pub fn drop_handler(session: &Session, kind: &str) -> Result<bool, Error> {
    statement!(DROP, "drop_handler", [Text]);
    Ok(session.run(&DROP, &[kind.into()])?.count() == 1)
}

/// The function that runs jobs of a kind for a role, or why none can. None: the kind has no handler of this role.
pub fn handler(session: &Session, kind: &str, role: Oid) -> Result<Option<Result<Function, String>>, Error> {
    statement!(HANDLER, "handler", [Text, Oid]);
    let rows = session.run(&HANDLER, &[kind.into(), role.into()])?;
    if rows.is_empty() {
        return Ok(None);
    }
    if let Some(problem) = rows.string(0, 1) {
        return Ok(Some(Err(problem)));
    }
    let function = || Some(Function { oid: rows.oid(0, 2)?, is_procedure: rows.boolean(0, 3)?, arguments: rows.int(0, 4)? });
    Ok(function().map(Ok))
}

/// Option values of create_pool and alter_pool; None: not given.
#[derive(Default)]
pub struct Options<'a> {
    pub queue: Option<Text>,
    pub size: Option<i32>,
    pub autostart: Option<bool>,
    pub restart: Option<&'a str>,
    pub start_ms: Option<i64>,
    pub start_retries: Option<i32>,
    pub stop_wait_ms: Option<i64>,
    pub max_runtime_ms: Option<i64>,
    pub max_memory_bytes: Option<i64>,
    pub job_timeout_ms: Option<i64>,
}

impl Options<'_> {
    fn params(&self) -> [Param; 10] {
        [
            self.queue.into(),
            self.size.into(),
            self.autostart.into(),
            self.restart.into(),
            self.start_ms.into(),
            self.start_retries.into(),
            self.stop_wait_ms.into(),
            self.max_runtime_ms.into(),
            self.max_memory_bytes.into(),
            self.job_timeout_ms.into(),
        ]
    }
}

/// False when the name is taken.
pub fn create_pool(
    session: &Session,
    name: &str,
    run_as: Oid,
    by: Oid,
    options: &Options<'_>,
    now: Timestamp,
) -> Result<bool, Error> {
    statement!(
        CREATE,
        "create_pool",
        [Text, Oid, Oid, Text, Int, Bool, Text, BigInt, Int, BigInt, BigInt, BigInt, BigInt, Timestamp]
    );
    let head: [Param; 3] = [name.into(), run_as.into(), by.into()];
    let params: Vec<Param> = head.into_iter().chain(options.params()).chain([now.into()]).collect();
    Ok(session.run(&CREATE, &params)?.count() == 1)
}

/// Locks a pool against other operators: its id and whether it is stopped.
pub fn lock_pool(session: &Session, name: &str, server_started_at: Timestamp) -> Result<Option<(i32, bool)>, Error> {
    statement!(LOCK, "lock_pool", [Text, Timestamp]);
    let rows = session.run(&LOCK, &[name.into(), server_started_at.into()])?;
    Ok(rows.int(0, 1).zip(rows.boolean(0, 2)))
}

/// False when nothing differs.
pub fn alter_pool(session: &Session, id: i32, options: &Options<'_>) -> Result<bool, Error> {
    statement!(ALTER, "alter_pool", [Int, Text, Int, Bool, Text, BigInt, Int, BigInt, BigInt, BigInt, BigInt, Timestamp]);
    let started_at = Param::from(crate::pg::server::started_at());
    let params: Vec<Param> = [Param::from(id)].into_iter().chain(options.params()).chain([started_at]).collect();
    Ok(session.run(&ALTER, &params)?.count() == 1)
}

pub fn start_pool(session: &Session, id: i32, server_started_at: Timestamp) -> Result<(), Error> {
    statement!(START, "start_pool", [Int, Timestamp]);
    session.run(&START, &[id.into(), server_started_at.into()]).map(|_| ())
}

pub fn stop_pool(session: &Session, id: i32) -> Result<(), Error> {
    statement!(STOP, "stop_pool", [Int]);
    session.run(&STOP, &[id.into()]).map(|_| ())
}

pub fn restart_pool(session: &Session, id: i32) -> Result<(), Error> {
    statement!(RESTART, "restart_pool", [Int]);
    session.run(&RESTART, &[id.into()]).map(|_| ())
}

pub fn drop_pool(session: &Session, id: i32) -> Result<(), Error> {
    statement!(DROP, "drop_pool", [Int]);
    session.run(&DROP, &[id.into()]).map(|_| ())
}

/// A pool as its supervisor wants it to be.
pub struct Pool {
    pub id: i32,
    pub name: String,
    pub role: Oid,
    pub size: i32,
    pub wanted: bool,
    pub starts: i32,
    pub restarts: i32,
    pub policy: Policy,
    /// 0: none; so are the next two.
    pub max_runtime_ms: i64,
    pub max_memory_bytes: i64,
    pub job_timeout_ms: i64,
    /// What is wrong with the role.
    pub problem: Reason,
}

pub fn pools(session: &Session, server_started_at: Timestamp) -> Result<Vec<Pool>, Error> {
    statement!(POOLS, "pools_wanted", [Timestamp], Free);
    let rows = session.run(&POOLS, &[server_started_at.into()])?;
    let micros = |row, column| rows.bigint(row, column).map(|ms| ms.saturating_mul(1_000));
    let pool = |row| {
        Some(Pool {
            id: rows.int(row, 1)?,
            name: rows.string(row, 2)?,
            role: rows.oid(row, 3)?,
            size: rows.int(row, 4)?,
            wanted: rows.boolean(row, 5)?,
            starts: rows.int(row, 6)?,
            restarts: rows.int(row, 7)?,
            policy: Policy {
                restart: Restart::from_word(&rows.string(row, 8)?).unwrap_or(Restart::Unexpected),
                start_micros: micros(row, 9)?,
                start_retries: u32::try_from(rows.int(row, 10)?).unwrap_or(0),
                stop_wait_micros: micros(row, 11)?,
            },
            max_runtime_ms: rows.bigint(row, 12)?,
            max_memory_bytes: rows.bigint(row, 13)?,
            job_timeout_ms: rows.bigint(row, 14)?,
            problem: Reason::of_role(rows.int(row, 15)?),
        })
    };
    Ok((0..rows.count()).filter_map(pool).collect())
}

/// What a pool's worker looks for.
#[derive(Clone, PartialEq, Eq)]
pub struct Errand {
    pub pool: String,
    pub queues: String,
    pub kinds: Vec<String>,
}

/// None: there is no such pool of this role any more.
pub fn errand(session: &Session, pool: i32, role: Oid) -> Result<Option<Errand>, Error> {
    statement!(KINDS, "pool_kinds", [Int, Oid], Free);
    let rows = session.run(&KINDS, &[pool.into(), role.into()])?;
    let Some((queues, pool)) = rows.string(0, 1).zip(rows.string(0, 2)) else { return Ok(None) };
    let mut kinds: Vec<String> = (0..rows.count()).filter_map(|row| rows.string(row, 3)).collect();
    kinds.sort();
    Ok(Some(Errand { pool, queues, kinds }))
}

/// A job as its worker in a pool has it.
pub struct Claimed {
    pub id: Uuid,
    pub lease: i64,
    pub kind: String,
    pub deadline_at: Option<Timestamp>,
    /// The jobq.claimed_job that its handler takes.
    pub job: Parcel,
}

pub fn claim(session: &Session, errand: &Errand, worker: &str) -> Result<Option<Claimed>, Error> {
    statement!(CLAIM, "claim_for_pool", [Text, Text, TextArray], Free);
    let rows = session.run(&CLAIM, &[errand.queues.as_str().into(), worker.into(), errand.kinds.as_slice().into()])?;
    let claimed = || {
        Some(Claimed {
            id: rows.uuid(0, 1)?,
            lease: rows.bigint(0, 2)?,
            kind: rows.string(0, 3)?,
            deadline_at: rows.timestamp(0, 4),
            job: rows.parcel(0, 5)?,
        })
    };
    Ok(claimed())
}

/// Those of the running jobs whose cancellation was asked for.
pub fn cancelled_among(session: &Session, ids: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    statement!(CANCELLED, "cancelled_among", [UuidArray]);
    let rows = session.run(&CANCELLED, &[ids.into()])?;
    Ok((0..rows.count()).filter_map(|row| rows.uuid(row, 1)).collect())
}
