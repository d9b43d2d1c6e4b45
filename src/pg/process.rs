//! Living as a background process of the server: registration, signals, waiting, transactions whose errors are survived.

use super::spi::Session;
use super::switch::as_owner;
use crate::error::Error;
use pgrx::pg_sys;
use std::ffi::{CStr, c_char, c_int, c_long};
use std::panic::{AssertUnwindSafe, catch_unwind};

unsafe extern "C-unwind" {
    // The server's own handlers, as signal handlers and not as calls.
    fn die(signal: c_int);
    fn SignalHandlerForConfigReload(signal: c_int);
    fn proc_exit(code: c_int) -> !;
    fn StatementCancelHandler(signal: c_int);
    #[cfg_attr(feature = "pg18", link_name = "pqsignal_be")]
    fn pqsignal(signal: c_int, handler: unsafe extern "C-unwind" fn(c_int)) -> *mut std::ffi::c_void;
}
const SIGHUP: c_int = 1;
pub(super) const SIGINT: c_int = 2;
pub(super) const SIGTERM: c_int = 15;
pub(super) const SIGUSR1: c_int = if cfg!(target_os = "macos") { 30 } else { 10 };

unsafe extern "C" {
    fn kill(pid: c_int, signal: c_int) -> c_int;
}

/// Signals a process of this server. Neither allocates nor raises.
pub(super) fn signal(pid: c_int, signal: c_int) {
    // SAFETY: the callers know the process by a number that it takes away itself before it ends.
    unsafe { kill(pid, signal) };
}

/// One database as pg_database describes it.
pub struct Database {
    pub oid: pg_sys::Oid,
    pub name: String,
    /// Connections are allowed, and it is neither a template nor half dropped.
    pub usable: bool,
}

fn fill(target: &mut [c_char], text: &str) {
    let last = target.len().saturating_sub(1);
    for (to, from) in target.iter_mut().take(last).zip(text.bytes()) {
        *to = from as c_char;
    }
}

fn describe(name: &str, entry: &CStr, restart_seconds: c_int, argument: u32) -> pg_sys::BackgroundWorker {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as c_int,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: restart_seconds,
        bgw_main_arg: pg_sys::Datum::from(argument),
        ..Default::default()
    };
    fill(&mut worker.bgw_name, name);
    fill(&mut worker.bgw_type, name.split(" of ").next().unwrap_or(name));
    fill(&mut worker.bgw_library_name, "jobq");
    fill(&mut worker.bgw_function_name, &entry.to_string_lossy());
    worker
}

/// The launcher: started by the postmaster once recovery is over, and again a second after it dies.
pub fn register_launcher() {
    let mut worker = describe("jobq launcher", c"jobq_launcher_main", 1, 0);
    // SAFETY: called while libraries are preloaded; the struct is copied.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) }
}

/// Starts a maintainer; false when no background worker slot is free. It is not restarted by the postmaster: the launcher does that.
pub fn start_maintainer(database: &Database) -> bool {
    let name = format!("jobq maintainer of {}", database.name);
    let mut worker = describe(&name, c"jobq_maintainer_main", pg_sys::BGW_NEVER_RESTART, database.oid.to_u32());
    // SAFETY: the struct is copied; no handle is wanted, the maintainer reports through shared memory.
    unsafe {
        worker.bgw_notify_pid = pg_sys::MyProcPid;
        pg_sys::RegisterDynamicBackgroundWorker(&mut worker, std::ptr::null_mut())
    }
}

/// A process that was asked for.
pub struct Asked(*mut pg_sys::BackgroundWorkerHandle);

impl Asked {
    /// It has ended, or could not be started at all.
    pub fn has_ended(&self) -> bool {
        let mut pid = 0;
        // SAFETY: the handle is of this process, and freed with self.
        unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) == pg_sys::BgwHandleStatus::BGWH_STOPPED }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // SAFETY: RegisterDynamicBackgroundWorker made it in a memory context that lives as long as this process.
        unsafe { pg_sys::pfree(self.0.cast()) }
    }
}

/// Starts a worker of a pool, for its seat; None when no background worker slot is free. Its supervisor restarts it.
pub fn start_pool_worker(pool: &str, number: i32, place: u16, ticket: u32) -> Option<Asked> {
    let name = format!("jobq pool worker of {pool} {number}");
    let mut worker = describe(&name, c"jobq_pool_worker_main", pg_sys::BGW_NEVER_RESTART, 0);
    worker.bgw_main_arg = pg_sys::Datum::from((u64::from(place) << 32 | u64::from(ticket)) as usize);
    let mut handle = std::ptr::null_mut();
    // SAFETY: the struct is copied. The handle outlives the transaction, so it is made in memory that does.
    let started = unsafe {
        worker.bgw_notify_pid = pg_sys::MyProcPid;
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = pg_sys::TopMemoryContext;
        let started = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle);
        pg_sys::CurrentMemoryContext = before;
        started
    };
    // Not then_some: without a process there is no handle to be dropped.
    started.then(|| Asked(handle))
}

/// What `start_pool_worker` has told a process: its place and ticket.
pub fn place_and_ticket(argument: pg_sys::Datum) -> (usize, u32) {
    let argument = argument.value() as u64;
    ((argument >> 32) as usize, argument as u32)
}

/// Takes up the signals every server process answers to. SIGTERM is the server's own `die`: it also ends a lock wait, a long
/// statement and a wait for a synchronous standby.
pub fn listen_to_signals() {
    // SAFETY: signals are blocked until the last call; the handlers are the server's own.
    unsafe {
        pqsignal(SIGHUP, SignalHandlerForConfigReload);
        pqsignal(SIGTERM, die);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// The same, and SIGINT, which cancels what the process is doing.
pub fn listen_to_cancels() {
    // SAFETY: as in listen_to_signals.
    unsafe { pqsignal(SIGINT, StatementCancelHandler) };
    listen_to_signals();
}

/// Whatever somebody set for the server, a database or a role: our transactions are short, see what is committed, may write, and
/// are not ended halfway. What autovacuum does for itself.
fn use_our_own_settings() {
    let settings = [
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_deferrable", c"off"),
        (c"statement_timeout", c"0"),
        (c"lock_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        (c"transaction_timeout", c"0"),
    ];
    settings.into_iter().for_each(|(name, value)| set(name, value, pg_sys::GucSource::PGC_S_OVERRIDE));
}

pub(super) fn set(name: &CStr, value: &CStr, source: pg_sys::GucSource::Type) {
    // SAFETY: zero-terminated strings.
    unsafe { pg_sys::SetConfigOption(name.as_ptr(), value.as_ptr(), pg_sys::GucContext::PGC_SUSET, source) }
}

/// Connects without a database: shared catalogs only.
pub fn connect_without_database() {
    // SAFETY: called once, at the start of a background worker.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) }
    use_our_own_settings();
}

/// Connects to a database as the bootstrap user; everything then runs through the privilege switch.
pub fn connect(database: pg_sys::Oid) {
    // SAFETY: called once, at the start of a background worker.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0) }
    use_our_own_settings();
}

/// Connects to a database as a role, as if it had logged in. Its settings are those of a session, but for those without which no job
/// can be claimed or finished.
pub fn connect_as(database: u32, role: u32) {
    // SAFETY: called once, at the start of a background worker.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(pg_sys::Oid::from(database), pg_sys::Oid::from(role), 0) }
    for (name, value) in [
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_deferrable", c"off"),
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        (c"transaction_timeout", c"0"),
    ] {
        // RESET in a job comes back to this.
        set(name, value, pg_sys::GucSource::PGC_S_OVERRIDE);
    }
}

/// Calls `cleanup` when this process ends, however it ends short of a crash.
pub fn at_exit(cleanup: unsafe extern "C-unwind" fn(c_int, pg_sys::Datum)) {
    // SAFETY: the callback is static.
    unsafe { pg_sys::before_shmem_exit(Some(cleanup), pg_sys::Datum::from(0)) }
}

/// Sleeps until this process's latch is set or the time is over; then lets requests to cancel or to end in.
pub(super) fn sleep_on_latch(milliseconds: i64) {
    let milliseconds = c_long::try_from(milliseconds.max(0)).unwrap_or(c_long::MAX);
    // SAFETY: MyLatch is this process's own latch; WL_EXIT_ON_PM_DEATH ends the process with the postmaster.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as c_int,
            milliseconds,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    super::server::check_for_interrupts();
}

/// The same; then reloads the configuration if asked to.
pub fn wait(milliseconds: i64) {
    sleep_on_latch(milliseconds);
    reload_if_asked();
}

/// Between transactions.
pub fn reload_if_asked() {
    // SAFETY: flags of this process, set by its signal handler.
    unsafe {
        if std::ptr::read_volatile(&raw const pg_sys::ConfigReloadPending) != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// Runs `body` in a transaction of its own, as the extension's owner, with its own memory. What it allocated is gone afterwards.
/// An ERROR inside is aborted and comes back as its message; FATAL ends the process as always.
pub fn transaction<T>(activity: &CStr, body: impl FnOnce(&Session) -> Result<T, Error>) -> Result<T, String> {
    protected(activity, || if hold_extension() { as_owner(body) } else { Err(Error::internal("the extension was dropped")) })
}

/// A moment's sleep.
pub fn nap() {
    super::server::check_for_interrupts();
    // SAFETY: sleeps for a millisecond.
    unsafe { pg_sys::pg_usleep(1_000) }
}

/// The same without SPI, for a process without a database.
pub fn bare_transaction<T>(activity: &CStr, body: impl FnOnce() -> T) -> Result<T, String> {
    protected(activity, || Ok(body()))
}

fn protected<T>(activity: &CStr, body: impl FnOnce() -> Result<T, Error>) -> Result<T, String> {
    // SAFETY: a transaction is opened and closed in this function; no snapshot or lock survives it. pgrx turns an ERROR raised by
    // the server into a panic, whose cause is copied and flushed before it unwinds; catching it here and aborting is what the
    // sigsetjmp block of a server process's main loop does.
    unsafe {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, activity.as_ptr());
            let outcome = body();
            pg_sys::PopActiveSnapshot();
            match outcome {
                Ok(value) => {
                    pg_sys::CommitTransactionCommand();
                    Ok(value)
                }
                Err(refusal) => {
                    pg_sys::AbortCurrentTransaction();
                    Err(refusal.message())
                }
            }
        }));
        let outcome = outcome.unwrap_or_else(|panic| {
            let message = message_of(&panic);
            pg_sys::AbortCurrentTransaction();
            Err(message)
        });
        pg_sys::pgstat_report_stat(true);
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
        outcome
    }
}

fn message_of(panic: &Box<dyn std::any::Any + Send>) -> String {
    use pg_sys::panic::CaughtError;
    if let Some(caught) = panic.downcast_ref::<CaughtError>() {
        return match caught {
            CaughtError::PostgresError(report)
            | CaughtError::ErrorReport(report)
            | CaughtError::RustPanic { ereport: report, .. } => report.message().to_string(),
        };
    }
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic without a message".into())
}

/// Names and oids of all databases, from the shared catalog. Call inside `bare_transaction`.
pub fn databases() -> Vec<Database> {
    let mut found = Vec::new();
    // SAFETY: a catalog scan as autovacuum's launcher does it; each tuple is read before the next is fetched.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as c_int);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            found.push(Database {
                oid: row.oid,
                name: CStr::from_ptr(row.datname.data.as_ptr()).to_string_lossy().into_owned(),
                // -2 marks a database whose DROP was interrupted.
                usable: row.datallowconn && !row.datistemplate && row.datconnlimit != -2,
            });
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as c_int);
    }
    found
}

/// Is nobody dropping, renaming, moving or copying this database? They lock it and then wait, up to five seconds, for the sessions
/// in it to leave. Call inside a transaction, which frees the lock again.
pub fn database_is_free(database: pg_sys::Oid) -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: 0,
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: database.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    // SAFETY: the lock that a new session takes on its database, asked for without waiting.
    unsafe {
        pg_sys::LockAcquire(&tag, pg_sys::RowExclusiveLock as c_int, false, true)
            != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// Ends the process; the postmaster restarts the launcher, the launcher restarts maintainers.
pub fn exit(code: c_int) -> ! {
    // SAFETY: runs the exit callbacks and ends the process.
    unsafe { proc_exit(code) }
}

/// Keeps DROP EXTENSION, which locks the extension before any of its tables, waiting for the end of this transaction: locking the
/// tables in another order than it does could be a deadlock, with the DROP as its victim.
pub fn hold_extension() -> bool {
    let Some(oid) = extension() else { return false };
    // SAFETY: a heavyweight lock, released at the end of the transaction.
    unsafe { pg_sys::LockDatabaseObject(pg_sys::ExtensionRelationId, oid, 0, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
    extension() == Some(oid)
}

/// The oid of the installed extension. Call inside a transaction.
pub fn extension() -> Option<pg_sys::Oid> {
    // SAFETY: a catalog look-up.
    let oid = unsafe { pg_sys::get_extension_oid(c"jobq".as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}
