//! The settings, each described once: docs/reference/settings.md is checked against them.

use crate::pg::server;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::{CStr, CString};

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"*"));
static TICK_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static RESCUE_GRACE: GucSetting<i32> = GucSetting::<i32>::new(0);
static ASYNC_CLAIM: GucSetting<bool> = GucSetting::<bool>::new(true);
static DISPATCH: GucSetting<bool> = GucSetting::<bool>::new(true);
static DISPATCH_SLOTS: GucSetting<i32> = GucSetting::<i32>::new(65_536);
static MAX_LEASES: GucSetting<i32> = GucSetting::<i32>::new(16_384);
static MAX_WAITERS: GucSetting<i32> = GucSetting::<i32>::new(1_024);
static SWEEP_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static NOTIFY_CHANNEL: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ALLOW_SUPERUSER_HANDLERS: GucSetting<bool> = GucSetting::<bool>::new(false);
static MAX_PAYLOAD_BYTES: GucSetting<i32> = GucSetting::<i32>::new(1024 * 1024);

/// A setting that counts milliseconds, for the time being shown and set with units.
fn milliseconds(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<i32>,
    min: i32,
    max: i32,
) {
    GucRegistry::define_int_guc(name, short, long, setting, min, max, GucContext::Sighup, GucFlags::UNIT_MS);
}

/// Defines all settings; from _PG_init.
pub fn define(preloading: bool) {
    GucRegistry::define_bool_guc(
        c"jobq.enabled",
        c"Run jobq's background duties.",
        c"Off: no rescue, no retention, no tombstones in any database. Claims and completions go on. Takes effect on reload.",
        &ENABLED,
        GucContext::Sighup,
        GucFlags::default(),
    );
    // Only the postmaster may define a setting that needs a restart.
    if preloading {
        GucRegistry::define_string_guc(
            c"jobq.databases",
            c"Databases in which jobq's background worker runs: names separated by commas, or * for all.",
            c"A name that does not exist is ignored.",
            &DATABASES,
            GucContext::Postmaster,
            GucFlags::default(),
        );
        GucRegistry::define_int_guc(
            c"jobq.dispatch_slots",
            c"Jobs that shared memory can propose to claims, of all queues of all databases.",
            c"64 bytes each. Further jobs are read from the table when these have been handed out.",
            &DISPATCH_SLOTS,
            1_024,
            1024 * 1024,
            GucContext::Postmaster,
            GucFlags::default(),
        );
        GucRegistry::define_int_guc(
            c"jobq.max_leases",
            c"Leases that can be kept by heartbeats, or bound to sessions, in shared memory.",
            c"120 bytes each. Heartbeats of further ones write to the table; claims that are bound to a session are refused.",
            &MAX_LEASES,
            64,
            1024 * 1024,
            GucContext::Postmaster,
            GucFlags::default(),
        );
        GucRegistry::define_int_guc(
            c"jobq.max_waiters",
            c"Sessions that can wait in claim_wait at once.",
            c"800 bytes each. One that names several queues counts once for each. Further ones look once a second.",
            &MAX_WAITERS,
            16,
            262_143,
            GucContext::Postmaster,
            GucFlags::default(),
        );
        GucRegistry::define_bool_guc(
            c"jobq.allow_superuser_handlers",
            c"Let handlers and pools run as superusers.",
            c"Off: a role that is a superuser, or becomes one, runs no job.",
            &ALLOW_SUPERUSER_HANDLERS,
            GucContext::Postmaster,
            GucFlags::default(),
        );
    }
    milliseconds(
        c"jobq.tick_interval",
        c"How often the background worker looks for lost workers and overdue attempts.",
        c"A worker is noticed as lost this long after its lease has expired. A pass over a large table is followed by a pause of ten times the processor time it took.",
        &TICK_INTERVAL,
        100,
        3_600_000,
    );
    milliseconds(
        c"jobq.rescue_grace",
        c"How long after a start, a promotion or a jump of the clock no job is rescued, if that is longer than the job's own lease.",
        c"0 means one lease of the job: workers could not send heartbeats while the server was away.",
        &RESCUE_GRACE,
        0,
        86_400_000,
    );
    GucRegistry::define_bool_guc(
        c"jobq.async_claim",
        c"Let a transaction that did nothing but claim jobs commit without waiting for the disk.",
        c"If it is lost in a crash, the jobs are pending again and their leases are refused. Any other write in the transaction is waited for. Needs preload. Takes effect on reload.",
        &ASYNC_CLAIM,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"jobq.dispatch",
        c"Let claims take their jobs from shared memory.",
        c"Off: every claim searches the table. The results are the same. Needs preload. Takes effect on reload.",
        &DISPATCH,
        GucContext::Sighup,
        GucFlags::default(),
    );
    milliseconds(
        c"jobq.sweep_interval",
        c"How often the background worker looks for ready jobs that shared memory does not know of.",
        c"They come from a restore, logical replication, or a row changed by hand. A pass over a large table is followed by a pause of fifty times the processor time it took.",
        &SWEEP_INTERVAL,
        100,
        3_600_000,
    );
    server::define_channel(
        c"jobq.notify_channel",
        c"Channel on which the background worker notifies of queues that have new jobs; empty: none.",
        c"At most 63 bytes. The payload is the queue's name. Commits within 20 ms are told together. Needs preload. Takes effect on reload.",
        &NOTIFY_CHANNEL,
    );
    GucRegistry::define_int_guc(
        c"jobq.max_payload_bytes",
        c"The largest payload or result of a job.",
        c"Measured as jsonb, before compression. Larger documents belong in a table of their own, with the job naming them.",
        &MAX_PAYLOAD_BYTES,
        1_024,
        256 * 1024 * 1024,
        GucContext::Sighup,
        GucFlags::UNIT_BYTE,
    );
}

/// None: nobody is to be notified.
pub fn notify_channel() -> Option<String> {
    NOTIFY_CHANNEL.get().filter(|channel| !channel.is_empty()).map(|channel| channel.to_string_lossy().into_owned())
}

pub fn enabled() -> bool {
    ENABLED.get()
}

/// Does the background worker serve this database?
pub fn serves(database: &str) -> bool {
    DATABASES.get().is_none_or(|list| {
        let list = list.to_string_lossy();
        list.split(',').map(str::trim).any(|name| name == "*" || name == database)
    })
}

pub fn tick_interval_ms() -> i64 {
    i64::from(TICK_INTERVAL.get())
}

pub fn rescue_grace_ms() -> i64 {
    i64::from(RESCUE_GRACE.get())
}

pub fn async_claim() -> bool {
    ASYNC_CLAIM.get()
}

pub fn dispatch() -> bool {
    DISPATCH.get()
}

pub fn dispatch_slots() -> usize {
    usize::try_from(DISPATCH_SLOTS.get()).unwrap_or(0)
}

pub fn max_leases() -> usize {
    usize::try_from(MAX_LEASES.get()).unwrap_or(0)
}

pub fn max_waiters() -> usize {
    usize::try_from(MAX_WAITERS.get()).unwrap_or(0)
}

pub fn sweep_interval_ms() -> i64 {
    i64::from(SWEEP_INTERVAL.get())
}

pub fn allow_superuser_handlers() -> bool {
    ALLOW_SUPERUSER_HANDLERS.get()
}

pub fn max_payload_bytes() -> usize {
    usize::try_from(MAX_PAYLOAD_BYTES.get()).unwrap_or(usize::MAX)
}
