//! Running somebody's function for a job: as the session's user, with nothing of jobq's rights, and its errors kept as they were raised.
//!
//! A function is called as Postgres calls one for the fast-path message (tcop/fastpath.c), a procedure as for CALL in autocommit mode,
//! so that it may commit.

use super::call::{Raised, unpack_sqlstate};
use super::datum::Jsonb;
use super::process;
use crate::error::Error;
use cee_scape::{SigJmpBufFields, call_with_sigsetjmp};
use pgrx::pg_sys;
use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What runs the jobs of a kind.
#[derive(Clone, Copy)]
pub struct Function {
    pub oid: pg_sys::Oid,
    pub is_procedure: bool,
    /// The first takes the job; a procedure may have a second, which is its result.
    pub arguments: i32,
}

/// Why a handler did not come to its end: an ERROR, as it was raised.
#[derive(Debug, Clone, Default)]
pub struct Failure {
    pub sqlstate: [u8; 5],
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub context: Option<String>,
}

impl Failure {
    /// What a handler wants to become of its job, and no error: jobq.snooze, jobq.discard.
    pub fn is_wish(&self) -> bool {
        matches!(&self.sqlstate, b"JQ005" | b"JQ006")
    }
}

/// A composite value that outlives the transaction in which it was made, with memory for what else belongs to it.
pub struct Parcel {
    memory: pg_sys::MemoryContext,
    datum: pg_sys::Datum,
    kind: pg_sys::Oid,
}

impl Parcel {
    /// # Safety
    /// The datum must be a non-null composite value.
    pub(super) unsafe fn of(datum: pg_sys::Datum) -> Parcel {
        // SAFETY: the memory lives until the parcel is dropped; a composite value is a varlena whose header names its type.
        unsafe {
            let memory =
                pg_sys::AllocSetContextCreateInternal(pg_sys::TopMemoryContext, c"jobq job".as_ptr(), 0, 1024, 8 * 1024 * 1024);
            let before = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = memory;
            let copy = pg_sys::pg_detoast_datum_copy(datum.cast_mut_ptr());
            pg_sys::CurrentMemoryContext = before;
            let header = copy.cast::<pg_sys::HeapTupleHeaderData>();
            Parcel { memory, datum: pg_sys::Datum::from(copy), kind: (*header).t_choice.t_datum.datum_typeid }
        }
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        // SAFETY: made by `of`; nothing is current in it any more.
        unsafe { pg_sys::MemoryContextDelete(self.memory) }
    }
}

// Postgres's own, without pgrx's guards: they run below `caught`, which must see the ERROR as it was raised.
unsafe extern "C-unwind" {
    fn fmgr_info_cxt(function: pg_sys::Oid, info: *mut pg_sys::FmgrInfo, memory: pg_sys::MemoryContext);
    fn GetTransactionSnapshot() -> pg_sys::Snapshot;
    fn PushActiveSnapshot(snapshot: pg_sys::Snapshot);
    fn PopActiveSnapshot();
    fn datumCopy(value: pg_sys::Datum, by_value: bool, length: c_int) -> pg_sys::Datum;
    fn pg_detoast_datum(value: *mut pg_sys::varlena) -> *mut pg_sys::varlena;
    fn palloc0(size: usize) -> *mut std::ffi::c_void;
    fn makeString(text: *mut c_char) -> *mut pg_sys::Node;
    fn lappend(list: *mut pg_sys::List, item: *mut std::ffi::c_void) -> *mut pg_sys::List;
    fn get_func_name(function: pg_sys::Oid) -> *mut c_char;
    fn get_func_namespace(function: pg_sys::Oid) -> pg_sys::Oid;
    fn get_namespace_name(namespace: pg_sys::Oid) -> *mut c_char;
    fn pg_analyze_and_rewrite_fixedparams(
        statement: *mut pg_sys::RawStmt,
        text: *const c_char,
        types: *const pg_sys::Oid,
        count: c_int,
        environment: *mut pg_sys::QueryEnvironment,
    ) -> *mut pg_sys::List;
    fn pg_plan_queries(
        queries: *mut pg_sys::List,
        text: *const c_char,
        options: c_int,
        parameters: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::List;
    fn makeParamList(count: c_int) -> pg_sys::ParamListInfo;
    fn CreateNewPortal() -> pg_sys::Portal;
    fn PortalDefineQuery(
        portal: pg_sys::Portal,
        name: *const c_char,
        text: *const c_char,
        tag: pg_sys::CommandTag::Type,
        statements: *mut pg_sys::List,
        plan: *mut pg_sys::CachedPlan,
    );
    fn PortalStart(portal: pg_sys::Portal, parameters: pg_sys::ParamListInfo, flags: c_int, snapshot: pg_sys::Snapshot);
    #[cfg(feature = "pg18")]
    fn PortalRun(
        portal: pg_sys::Portal,
        count: c_long,
        is_top_level: bool,
        receiver: *mut pg_sys::DestReceiver,
        other: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    ) -> bool;
    #[cfg(not(feature = "pg18"))]
    fn PortalRun(
        portal: pg_sys::Portal,
        count: c_long,
        is_top_level: bool,
        run_once: bool,
        receiver: *mut pg_sys::DestReceiver,
        other: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    ) -> bool;
    fn PortalDrop(portal: pg_sys::Portal, is_top_commit: bool);
    fn ExecFetchSlotHeapTuple(slot: *mut pg_sys::TupleTableSlot, materialize: bool, free: *mut bool) -> pg_sys::HeapTuple;
    fn SPI_gettypeid(description: pg_sys::TupleDesc, column: c_int) -> pg_sys::Oid;
    fn SPI_getbinval(
        tuple: pg_sys::HeapTuple,
        description: pg_sys::TupleDesc,
        column: c_int,
        is_null: *mut bool,
    ) -> pg_sys::Datum;

    // These are in no header that pgrx reads.
    fn enable_timeout_after(timeout: c_int, milliseconds: c_int);
    fn disable_all_timeouts(keep_indicators: bool);
    fn PortalHashTableDeleteAll();
    fn Async_UnlistenAll();
    fn ResetSequenceCaches();
}

/// utils/timeout.h
const STATEMENT_TIMEOUT: c_int = 3;
const ALL_ROWS: c_long = c_long::MAX;

/// Runs the handler of a job. `timeout_ms`: 0 is none. The result lives as long as the parcel.
pub fn call(function: &Function, job: &Parcel, timeout_ms: i64) -> Result<Option<Jsonb>, Failure> {
    let mut answer = Catcher::new(job.memory);
    let timeout_ms = c_int::try_from(timeout_ms).unwrap_or(c_int::MAX);
    // SAFETY: in a transaction, without a snapshot; everything that is allocated goes to the job's memory, which also outlives the
    // commits of a procedure.
    let outcome = unsafe {
        disable_all_timeouts(false);
        pg_sys::QueryCancelHoldoffCount = 0;
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = job.memory;
        let outcome = caught(job.memory, || {
            if timeout_ms > 0 {
                enable_timeout_after(STATEMENT_TIMEOUT, timeout_ms);
            }
            if function.is_procedure {
                call_procedure(function, job, &mut answer);
            } else {
                call_function(function, job, &mut answer);
            }
            fire_deferred_triggers();
            // Cursors WITH HOLD would be read to their end by the commit.
            PortalHashTableDeleteAll();
        });
        hold_cancels();
        disable_all_timeouts(false);
        // Nor is it to end the wait for a standby, or to make what follows wait for one that reads.
        forget_cancels();
        pg_sys::XactDeferrable = false;
        pg_sys::CurrentMemoryContext =
            if outcome.is_ok() && !function.is_procedure { before } else { pg_sys::TopTransactionContext };
        outcome
    };
    outcome?;
    if answer.is_another {
        return Err(Failure::from(&Error::internal("the handler's name stands for another procedure")));
    }
    Ok(answer.jsonb())
}

/// Nobody cancels what jobq itself does for a job: a request that comes late waits for the next call, which forgets it.
pub fn hold_cancels() {
    // SAFETY: a counter of this process, which every ERROR sets to 0.
    unsafe { pg_sys::QueryCancelHoldoffCount = 1 }
}

/// Before it is asked whether a job is to be cancelled: what is asked for later is not forgotten.
pub fn forget_cancels() {
    // SAFETY: a flag of this process.
    unsafe { pg_sys::QueryCancelPending = 0 }
}

/// PG_TRY of utils/elog.h. An ERROR comes back, and is told to the server's log.
///
/// # Safety
/// `body` calls nothing but the server's own functions, without guards, and owns nothing that would have to be dropped. After an ERROR
/// the transaction must be aborted.
unsafe fn caught(memory: pg_sys::MemoryContext, body: impl FnOnce()) -> Result<(), Failure> {
    // SAFETY: the stacks are put back on both ways; the buffer lives until then.
    unsafe {
        let (exceptions, contexts) = (pg_sys::PG_exception_stack, pg_sys::error_context_stack);
        let jumped = call_with_sigsetjmp(false, |buffer| {
            pg_sys::PG_exception_stack = (buffer as *const SigJmpBufFields).cast_mut().cast();
            body();
            0
        });
        pg_sys::PG_exception_stack = exceptions;
        pg_sys::error_context_stack = contexts;
        if jumped == 0 {
            return Ok(());
        }
        hold_cancels();
        pg_sys::CurrentMemoryContext = memory;
        let failure = failure_of(&*pg_sys::CopyErrorData());
        if !failure.is_wish() {
            pg_sys::EmitErrorReport();
        }
        pg_sys::FlushErrorState();
        Err(failure)
    }
}

/// # Safety
/// The strings of `data` are null or zero-terminated.
unsafe fn failure_of(data: &pg_sys::ErrorData) -> Failure {
    // SAFETY: the caller's promise.
    let text = |text: *const c_char| unsafe { (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned()) };
    Failure {
        sqlstate: unpack_sqlstate(data.sqlerrcode),
        message: text(data.message).unwrap_or_default(),
        detail: text(data.detail),
        hint: text(data.hint),
        context: text(data.context),
    }
}

/// SET CONSTRAINTS ALL IMMEDIATE (commands/trigger.c): what a handler has left for the commit is part of its call, can be cancelled and
/// runs out of time with it.
///
/// # Safety
/// As for `caught`'s body; in a transaction.
unsafe fn fire_deferred_triggers() {
    unsafe extern "C-unwind" {
        fn AfterTriggerSetState(statement: *mut pg_sys::ConstraintsSetStmt);
    }
    // SAFETY: the node is palloc0'd with its own tag; no constraints named are all of them.
    unsafe {
        let statement: *mut pg_sys::ConstraintsSetStmt = node(pg_sys::NodeTag::T_ConstraintsSetStmt);
        AfterTriggerSetState(statement);
    }
}

/// tcop/fastpath.c, HandleFunctionRequest. The rights were looked at by sql/queries/handler.sql.
///
/// # Safety
/// As for `caught`'s body; in a transaction.
unsafe fn call_function(function: &Function, job: &Parcel, answer: &mut Catcher) {
    // SAFETY: fcinfo is palloc'd with room for its one argument, and FmgrInfo too; both live in the job's memory.
    unsafe {
        PushActiveSnapshot(GetTransactionSnapshot());
        let info: *mut pg_sys::FmgrInfo = palloc0(size_of::<pg_sys::FmgrInfo>()).cast();
        fmgr_info_cxt(function.oid, info, job.memory);
        let size = size_of::<pg_sys::FunctionCallInfoBaseData>().saturating_add(size_of::<pg_sys::NullableDatum>());
        let fcinfo: pg_sys::FunctionCallInfo = palloc0(size).cast();
        (*fcinfo).flinfo = info;
        (*fcinfo).nargs = 1;
        (*(*fcinfo).args.as_mut_ptr()) = pg_sys::NullableDatum { value: job.datum, isnull: false };
        if let Some(address) = (*info).fn_addr {
            let datum = address(fcinfo);
            answer.keep(datum, (*fcinfo).isnull || !returns_jsonb(info));
        }
        PopActiveSnapshot();
    }
}

/// # Safety
/// `info` was filled by fmgr_info_cxt.
unsafe fn returns_jsonb(info: *mut pg_sys::FmgrInfo) -> bool {
    unsafe extern "C-unwind" {
        fn get_func_rettype(function: pg_sys::Oid) -> pg_sys::Oid;
    }
    // SAFETY: a catalog look-up.
    unsafe { get_func_rettype((*info).fn_oid) == pg_sys::JSONBOID }
}

/// tcop/postgres.c, exec_simple_query, for `CALL procedure(job)` or `CALL procedure(job, NULL)`; as a parse tree: no SQL text is built.
///
/// # Safety
/// As for `caught`'s body; in a transaction that is no block.
unsafe fn call_procedure(function: &Function, job: &Parcel, answer: &mut Catcher) {
    // SAFETY: the nodes are palloc0'd with their own tag, as the parser makes them, in the job's memory.
    unsafe {
        let text = c"CALL of a jobq handler".as_ptr();
        PushActiveSnapshot(GetTransactionSnapshot());
        let (schema, procedure) = (get_namespace_name(get_func_namespace(function.oid)), get_func_name(function.oid));
        // Dropped just now.
        if schema.is_null() || procedure.is_null() {
            answer.is_another = true;
            PopActiveSnapshot();
            return;
        }
        let name = lappend(lappend(std::ptr::null_mut(), makeString(schema).cast()), makeString(procedure).cast());
        let types = [job.kind, pg_sys::JSONBOID];
        let count = function.arguments.clamp(1, 2);
        let mut arguments = std::ptr::null_mut();
        for number in 1..=count {
            let parameter: *mut pg_sys::ParamRef = node(pg_sys::NodeTag::T_ParamRef);
            (*parameter).number = number;
            arguments = lappend(arguments, parameter.cast());
        }
        let called: *mut pg_sys::FuncCall = node(pg_sys::NodeTag::T_FuncCall);
        (*called).funcname = name;
        (*called).args = arguments;
        (*called).location = -1;
        let statement: *mut pg_sys::CallStmt = node(pg_sys::NodeTag::T_CallStmt);
        (*statement).funccall = called;
        let raw: *mut pg_sys::RawStmt = node(pg_sys::NodeTag::T_RawStmt);
        (*raw).stmt = statement.cast();
        let queries = pg_analyze_and_rewrite_fixedparams(raw, text, types.as_ptr(), count, std::ptr::null_mut());
        let query: *mut pg_sys::Query = (*(*queries).elements).ptr_value.cast();
        let chosen: *mut pg_sys::CallStmt = (*query).utilityStmt.cast();
        // A name and its argument types are one procedure; should it be another all the same, none is called.
        if (*(*chosen).funcexpr).funcid != function.oid {
            answer.is_another = true;
            PopActiveSnapshot();
            return;
        }
        let plans = pg_plan_queries(queries, text, 0, std::ptr::null_mut());
        PopActiveSnapshot();

        let parameters = makeParamList(count);
        let values = (*parameters).params.as_mut_ptr();
        let pflags = pg_sys::PARAM_FLAG_CONST as _;
        *values = pg_sys::ParamExternData { value: job.datum, isnull: false, pflags, ptype: job.kind };
        if count == 2 {
            *values.add(1) =
                pg_sys::ParamExternData { value: pg_sys::Datum::from(0), isnull: true, pflags, ptype: pg_sys::JSONBOID };
        }
        let portal = CreateNewPortal();
        (*portal).visible = false;
        PortalDefineQuery(portal, std::ptr::null(), text, pg_sys::CommandTag::CMDTAG_CALL, plans, std::ptr::null_mut());
        PortalStart(portal, parameters, 0, std::ptr::null_mut());
        let receiver: *mut pg_sys::DestReceiver = (&raw mut *answer).cast();
        #[cfg(feature = "pg18")]
        PortalRun(portal, ALL_ROWS, true, receiver, receiver, std::ptr::null_mut());
        #[cfg(not(feature = "pg18"))]
        PortalRun(portal, ALL_ROWS, true, true, receiver, receiver, std::ptr::null_mut());
        PortalDrop(portal, false);
    }
}

/// # Safety
/// `T` must be the node struct that belongs to the tag.
unsafe fn node<T>(tag: pg_sys::NodeTag) -> *mut T {
    // SAFETY: palloc0 returns zeroed memory of that size; every node starts with its tag.
    unsafe {
        let node = palloc0(size_of::<T>());
        *node.cast::<pg_sys::NodeTag>() = tag;
        node.cast()
    }
}

/// Takes the one value that a handler answers with, also from a procedure's row.
#[repr(C)]
struct Catcher {
    receiver: pg_sys::DestReceiver,
    memory: pg_sys::MemoryContext,
    caught: Option<pg_sys::Datum>,
    is_another: bool,
}

impl Catcher {
    fn new(memory: pg_sys::MemoryContext) -> Catcher {
        let receiver = pg_sys::DestReceiver {
            receiveSlot: Some(receive),
            rStartup: Some(start_up),
            rShutdown: Some(shut_down),
            rDestroy: Some(shut_down),
            mydest: pg_sys::CommandDest::DestNone,
        };
        Catcher { receiver, memory, caught: None, is_another: false }
    }

    /// # Safety
    /// The datum is null, or of type jsonb.
    unsafe fn keep(&mut self, datum: pg_sys::Datum, is_null: bool) {
        // SAFETY: a detoasted varlena is copied to the job's memory.
        unsafe {
            pg_sys::CurrentMemoryContext = self.memory;
            self.caught = (!is_null).then(|| datumCopy(pg_sys::Datum::from(pg_detoast_datum(datum.cast_mut_ptr())), false, -1));
        }
    }

    fn jsonb(&self) -> Option<Jsonb> {
        // SAFETY: `keep` was given jsonb: handler_facts.sql lets nothing else become a handler.
        self.caught.map(|datum| unsafe { Jsonb::from_datum(datum) })
    }
}

unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, receiver: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: the receiver is a Catcher; the slot holds a row whose first column is the procedure's INOUT jsonb.
    unsafe {
        let mut free = false;
        let tuple = ExecFetchSlotHeapTuple(slot, false, &mut free);
        let mut is_null = true;
        let description = (*slot).tts_tupleDescriptor;
        // What is registered answers with jsonb; whatever else it may be is no result.
        if SPI_gettypeid(description, 1) != pg_sys::JSONBOID {
            return true;
        }
        let datum = SPI_getbinval(tuple, description, 1, &mut is_null);
        let before = pg_sys::CurrentMemoryContext;
        (*receiver.cast::<Catcher>()).keep(datum, is_null);
        pg_sys::CurrentMemoryContext = before;
        true
    }
}

unsafe extern "C-unwind" fn start_up(_: *mut pg_sys::DestReceiver, _: c_int, _: pg_sys::TupleDesc) {}

unsafe extern "C-unwind" fn shut_down(_: *mut pg_sys::DestReceiver) {}

/// What a transaction of a pool worker came to.
pub enum Ended<T> {
    Committed(T),
    Aborted(Failure),
}

/// Runs a transaction of a pool worker. What `body` refuses, what it raises and what the commit raises undoes it.
pub fn transaction<T>(activity: &str, body: impl FnOnce() -> Result<T, Failure>) -> Ended<T> {
    let activity = CString::new(activity).unwrap_or_default();
    // SAFETY: as in process::protected, but that the body takes its snapshots itself.
    unsafe {
        hold_cancels();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            // Whatever a job has left as the default.
            pg_sys::XactIsoLevel = pg_sys::XACT_READ_COMMITTED as c_int;
            pg_sys::XactReadOnly = false;
            pg_sys::XactDeferrable = false;
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, activity.as_ptr());
            pg_sys::debug_query_string = activity.as_ptr();
            let outcome = body();
            if outcome.is_ok() {
                pg_sys::CommitTransactionCommand();
            }
            outcome
        }));
        let outcome = outcome.unwrap_or_else(|panic| Err(Failure::from(panic)));
        pg_sys::debug_query_string = std::ptr::null();
        if outcome.is_err() {
            hold_cancels();
            pg_sys::AbortOutOfAnyTransaction();
            pg_sys::PortalErrorCleanup();
            if !pg_sys::MyReplicationSlot.is_null() {
                pg_sys::ReplicationSlotRelease();
            }
            pg_sys::jit_reset_after_error();
        }
        pg_sys::CurrentMemoryContext = pg_sys::TopMemoryContext;
        pg_sys::pgstat_report_stat(false);
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
        match outcome {
            Ok(value) => Ended::Committed(value),
            Err(failure) => Ended::Aborted(failure),
        }
    }
}

/// A transaction while the process ends, after whatever was open; as catalog/namespace.c removes temporary tables. It does not wait
/// for a synchronous standby: nothing could end that.
pub fn last_transaction(body: impl FnOnce() -> Result<(), Error>) {
    // SAFETY: called from before_shmem_exit; an ERROR there is FATAL and goes on with the next callback.
    unsafe {
        pg_sys::AbortOutOfAnyTransaction();
        process::set(c"synchronous_commit", c"local", pg_sys::GucSource::PGC_S_SESSION);
    }
    transaction("jobq: puts its job back", || with_snapshot(body).map_err(|refusal| Failure::from(&refusal)));
}

/// Runs what jobq itself does in such a transaction, with a snapshot.
pub fn with_snapshot<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: in a transaction; an ERROR pops the snapshot with it.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let outcome = body();
        pg_sys::PopActiveSnapshot();
        outcome
    }
}

/// Runs `body` so that an ERROR in it undoes what it did and nothing else; as PL/pgSQL's EXCEPTION does.
pub fn apart<T>(body: impl FnOnce() -> Result<T, Error>) -> Result<T, Failure> {
    // SAFETY: the subtransaction is ended on both ways, and the memory and the resources are those of before again.
    unsafe {
        let (memory, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::CurrentMemoryContext = memory;
        let outcome = catch_unwind(AssertUnwindSafe(body))
            .map_err(Failure::from)
            .and_then(|outcome| outcome.map_err(|refusal| Failure::from(&refusal)));
        if outcome.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner) = (memory, owner);
        outcome
    }
}

/// What a job leaves behind in its session and a transaction has to remove: temporary tables, LISTEN. At its beginning.
pub fn remove_leftovers() {
    // SAFETY: what DISCARD ALL does (commands/discard.c), in a transaction; rows of the catalog may be toasted.
    with_snapshot(|| unsafe {
        pg_sys::ResetTempTableNamespace();
        Async_UnlistenAll();
    })
}

/// The rest of what DISCARD ALL does but for plans; outside a transaction, so that no rollback brings it back. False: the session
/// is not the role's any more, and has to end.
pub fn forget_session(role: pg_sys::Oid) -> bool {
    // SAFETY: outside a transaction nothing uses what is removed.
    unsafe {
        pg_sys::PortalHashTableDeleteAll();
        pg_sys::ResetAllOptions();
        // Which RESET ALL leaves alone.
        process::set(c"role", c"none", pg_sys::GucSource::PGC_S_SESSION);
        pg_sys::DropAllPreparedStatements();
        pg_sys::LockReleaseAll(pg_sys::USER_LOCKMETHOD as pg_sys::LOCKMETHODID, true);
        ResetSequenceCaches();
        pg_sys::GetSessionUserId() == role && pg_sys::GetUserId() == role
    }
}

/// Private memory of this process, in bytes.
pub fn memory_bytes() -> i64 {
    /// On Linux: resident pages that are not shared with others (proc(5), statm).
    fn resident() -> Option<i64> {
        let told = std::fs::read_to_string("/proc/self/statm").ok()?;
        let mut pages = told.split(' ').skip(1).map_while(|pages| pages.parse::<i64>().ok());
        let private = pages.next()?.saturating_sub(pages.next()?);
        Some(private.saturating_mul(page_bytes()))
    }
    fn page_bytes() -> i64 {
        unsafe extern "C" {
            fn sysconf(name: c_int) -> c_long;
        }
        const SC_PAGESIZE: c_int = if cfg!(target_os = "macos") { 29 } else { 30 };
        // SAFETY: asks for a constant of the system.
        unsafe { sysconf(SC_PAGESIZE) }
    }
    // SAFETY: adds up the memory contexts.
    let in_contexts = || unsafe { pg_sys::MemoryContextMemAllocated(pg_sys::TopMemoryContext, true) };
    resident().unwrap_or_else(|| i64::try_from(in_contexts()).unwrap_or(i64::MAX))
}

impl From<Box<dyn Any + Send>> for Failure {
    fn from(panic: Box<dyn Any + Send>) -> Failure {
        let Raised { sqlerrcode, message, detail, hint } = Raised::from(panic);
        Failure { sqlstate: unpack_sqlstate(sqlerrcode), message, detail, hint, context: None }
    }
}

impl From<&Error> for Failure {
    fn from(refusal: &Error) -> Failure {
        Failure {
            sqlstate: refusal.sqlstate(),
            message: refusal.message(),
            detail: refusal.detail(),
            hint: refusal.hint().map(String::from),
            context: None,
        }
    }
}
