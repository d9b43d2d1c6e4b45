//! Small facts about the server and this session.

use crate::clock::Timestamp;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};
use std::ffi::{CStr, CString, c_char, c_void};

unsafe extern "C-unwind" {
    // Postgres's own, without pgrx's guard: it raises nothing, and is called after commit.
    fn GetCurrentTimestamp() -> i64;
}

/// Microseconds since 2000-01-01 UTC. Neither allocates nor raises.
pub fn wall_clock_micros() -> i64 {
    // SAFETY: reads the clock, nothing else.
    unsafe { GetCurrentTimestamp() }
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanos: i64,
}

unsafe extern "C" {
    fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
}

#[cfg(target_os = "linux")]
const CLOCK_MONOTONIC: i32 = 1;
#[cfg(target_os = "macos")]
const CLOCK_MONOTONIC: i32 = 6;

fn clock_micros(clock: i32) -> i64 {
    let mut time = Timespec { seconds: 0, nanos: 0 };
    // SAFETY: `time` is a timespec as 64-bit Unix systems define it; the call fills it.
    unsafe { clock_gettime(clock, &mut time) };
    time.seconds.saturating_mul(1_000_000).saturating_add(time.nanos / 1_000)
}

/// Microseconds of a clock that nobody sets; comparable between processes, not between boots.
pub fn monotonic_micros() -> i64 {
    clock_micros(CLOCK_MONOTONIC)
}

#[cfg(target_os = "linux")]
const CLOCK_PROCESS_CPUTIME: i32 = 2;
#[cfg(target_os = "macos")]
const CLOCK_PROCESS_CPUTIME: i32 = 12;

/// Microseconds of processor time this process has used.
pub fn cpu_micros() -> i64 {
    clock_micros(CLOCK_PROCESS_CPUTIME)
}

/// Raises 25006 on a standby and in a read-only transaction.
pub fn refuse_if_read_only(command: &'static std::ffi::CStr) {
    // SAFETY: a zero-terminated string; raises or returns.
    unsafe { pg_sys::PreventCommandIfReadOnly(command.as_ptr()) }
}

/// 32 random bits from the operating system, without a file: a server built without OpenSSL opens one for each call.
pub fn random_bits() -> u32 {
    (uuid::Uuid::new_v4().as_u128() & u128::from(u32::MAX)) as u32
}

/// A number from 0 up to 1.
pub fn random_share() -> f64 {
    f64::from(random_bits()) / (f64::from(u32::MAX) + 1.0)
}

pub fn backend_pid() -> i32 {
    // SAFETY: set once when the process starts.
    unsafe { pg_sys::MyProcPid }
}

pub fn database_oid() -> pg_sys::Oid {
    // SAFETY: set once when the session starts.
    unsafe { pg_sys::MyDatabaseId }
}

/// Is the library being loaded by the postmaster?
pub fn preloading() -> bool {
    // SAFETY: a flag of this process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Is this pg_upgrade's server? Nothing runs in the background there.
pub fn binary_upgrade() -> bool {
    // SAFETY: set once when the process starts.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Was the postmaster asked to shut down? It says so in its lock file (utils/pidfile.h) before it ends the other processes.
pub fn is_stopping() -> bool {
    const STATUS_LINE: usize = 8;
    let told = std::fs::read_to_string("postmaster.pid").unwrap_or_default();
    told.lines().nth(STATUS_LINE - 1).is_some_and(|status| status.trim() == "stopping")
}

/// Can the database keep any character?
pub fn keeps_unicode() -> bool {
    // SAFETY: reads a setting of this backend.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}

pub fn in_recovery() -> bool {
    // SAFETY: reads shared state the server keeps for this purpose.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// When the postmaster started.
pub fn started_at_micros() -> i64 {
    // SAFETY: set once by the postmaster.
    unsafe { pg_sys::PgStartTime }
}

/// The same as a time.
pub fn started_at() -> Timestamp {
    Timestamp(started_at_micros())
}

/// The user as whom the session runs now.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::GetUserId() }
}

/// None when there is no role with this oid.
pub fn role_name(role: pg_sys::Oid) -> Option<String> {
    // SAFETY: a catalog look-up; returns a palloc'd string or null.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// Does each statement of this transaction see what was committed before it?
pub fn statements_see_new_commits() -> bool {
    // SAFETY: a variable of this backend.
    unsafe { pg_sys::XactIsoLevel <= pg_sys::XACT_READ_COMMITTED as i32 }
}

pub fn in_transaction_block() -> bool {
    // SAFETY: a read of this backend's transaction state.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// Lets a cancel or terminate request in.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Does this start follow a clean shutdown, and is it not that of a standby or of a restored backup? Read from pg_control before the
/// startup process touches it, so only while preloading.
pub(super) fn last_shutdown_was_clean() -> bool {
    // The postmaster's working directory is the data directory.
    if ["standby.signal", "recovery.signal", "backup_label"].iter().any(|name| std::path::Path::new(name).exists()) {
        return false;
    }
    let mut crc_ok = false;
    // SAFETY: DataDir is set before libraries are preloaded; get_controlfile returns palloc'd memory or raises.
    unsafe {
        let control = pg_sys::get_controlfile(pg_sys::DataDir, &mut crc_ok);
        let clean = crc_ok && !control.is_null() && (*control).state == pg_sys::DBState::DB_SHUTDOWNED;
        if !control.is_null() {
            pg_sys::pfree(control.cast());
        }
        clean
    }
}

/// Defines a setting that names a channel and takes effect on reload.
pub fn define_channel(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    let flags = GucFlags::default();
    // SAFETY: the hook lives as long as the process.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short,
            long,
            setting,
            GucContext::Sighup,
            flags,
            Some(check_channel),
            None,
            None,
        );
    }
}

unsafe extern "C-unwind" fn check_channel(value: *mut *mut c_char, _: *mut *mut c_void, _: pg_sys::GucSource::Type) -> bool {
    // SAFETY: Postgres passes a pointer to a string, or to null.
    let name = unsafe { value.as_ref().filter(|name| !name.is_null()).map(|name| CStr::from_ptr(*name)) };
    name.is_none_or(|name| name.to_bytes().len() < pg_sys::NAMEDATALEN as usize)
}
