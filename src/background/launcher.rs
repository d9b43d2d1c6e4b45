//! The launcher: finds the databases in which jobq is installed and keeps a maintainer in each.
//!
//! It cannot look into a database, so it sends a maintainer: one that finds no extension leaves at once. That is done for every
//! database after a start, for new ones when they appear, and for all again when CREATE EXTENSION commits anywhere.

use super::maintainer;
use crate::clock::Timestamp;
use crate::pg::process::{self, Database, bare_transaction};
use crate::pg::{counts, leases, pools, shmem};
use crate::settings;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::ffi::c_int;

const ROUND_MS: i64 = 1_000;
/// A maintainer that left, for whatever reason, is sent again after this, doubled each time it has not served.
const RESEND_MS: i64 = 1_000;
/// A database without jobq is looked at again this rarely: CREATE EXTENSION tells us, this is for what does not tell (a clone).
const RESEND_MAX_MS: i64 = 60_000;
/// The log says at most this often that background worker slots are missing.
const COMPLAIN_MS: i64 = 60_000;

/// What the launcher knows of one database.
struct Visit {
    sent_at: Timestamp,
    pause_ms: i64,
    running: bool,
}

struct Launcher {
    visits: HashMap<u32, Visit>,
    looks_seen: u32,
    complained_at: Option<Timestamp>,
}

/// Entry point of the process.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn jobq_launcher_main(_argument: pg_sys::Datum) {
    process::listen_to_signals();
    process::connect_without_database();
    process::at_exit(clean_up);
    shmem::launcher_started();
    let mut launcher = Launcher { visits: HashMap::new(), looks_seen: shmem::looks_wanted(), complained_at: None };
    let mut error_pause_ms = 0;
    loop {
        match launcher.round() {
            Ok(()) => {
                error_pause_ms = 0;
                process::wait(ROUND_MS);
            }
            Err(message) => {
                error_pause_ms = i64::saturating_mul(error_pause_ms, 2).clamp(ROUND_MS, RESEND_MAX_MS);
                pgrx::log!("jobq launcher: {message}; next try in {} s", error_pause_ms / 1_000);
                process::wait(error_pause_ms);
            }
        }
    }
}

extern "C-unwind" fn clean_up(_: c_int, _: pg_sys::Datum) {
    shmem::launcher_exits();
}

impl Launcher {
    fn round(&mut self) -> Result<(), String> {
        let wanted = shmem::looks_wanted();
        if wanted != self.looks_seen {
            self.looks_seen = wanted;
            self.visits.clear();
        }
        if !settings::enabled() {
            return Ok(());
        }
        let databases = bare_transaction(c"list databases", process::databases)?;
        self.visits.retain(|oid, _| databases.iter().any(|database| database.oid.to_u32() == *oid));
        let exists = |oid| databases.iter().any(|database| database.oid.to_u32() == oid);
        shmem::keep_only(exists);
        leases::keep_only(exists);
        counts::keep_only(exists);
        pools::keep_only(exists);
        for database in databases.iter().filter(|database| database.usable && settings::serves(&database.name)) {
            self.visit(database)?;
        }
        Ok(())
    }

    fn visit(&mut self, database: &Database) -> Result<(), String> {
        let now = Timestamp::now();
        let running = maintainer::runs_in(database);
        let key = database.oid.to_u32();
        if let Some(visit) = self.visits.get_mut(&key) {
            if running {
                visit.running = true;
                return Ok(());
            }
            if visit.running || maintainer::has_served_since(database, visit.sent_at) {
                // It has served and left: killed, or out of somebody's way. Only one that never served makes us slower.
                visit.running = false;
                visit.sent_at = now;
                visit.pause_ms = RESEND_MS;
            }
            // A clock that was set back must not keep us waiting.
            if (0..visit.pause_ms).contains(&now.ms_since(visit.sent_at)) {
                return Ok(());
            }
        } else if running {
            self.visits.insert(key, Visit { sent_at: now, pause_ms: RESEND_MS, running: true });
            return Ok(());
        }
        // Somebody drops, renames or copies it: not now.
        if !bare_transaction(c"look", || process::database_is_free(database.oid))? {
            return Ok(());
        }
        if process::start_maintainer(database) {
            let pause_ms = self.visits.get(&key).map_or(RESEND_MS, |visit| visit.pause_ms.saturating_mul(2).min(RESEND_MAX_MS));
            self.visits.insert(key, Visit { sent_at: now, pause_ms, running: false });
        } else {
            self.complain(now, database);
        }
        Ok(())
    }

    fn complain(&mut self, now: Timestamp, database: &Database) {
        if self.complained_at.is_none_or(|at| now.ms_since(at) >= COMPLAIN_MS) {
            self.complained_at = Some(now);
            pgrx::log!(
                "jobq launcher: no background worker slot is free for a maintainer of database {}: raise max_worker_processes",
                database.name
            );
        }
    }
}
