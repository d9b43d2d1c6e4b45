//! job, why, stats, workers, diagnose, version: they look and change nothing, and run on a standby.

use super::{queue_name, required};
use crate::clock::Timestamp;
use crate::pg;
use crate::pg::call::{Answer, Call, Outcome};
use crate::pg::switch::as_owner;
use crate::store::inspect::Facts;
use crate::{settings, store};
use std::sync::atomic::Ordering::SeqCst;

const LIBRARY_VERSION: &str = env!("CARGO_PKG_VERSION");

/// `jobq.job(id)`
pub fn job(call: &Call) -> Outcome {
    let id = required(call.uuid(0), "id")?;
    let sink = call.rows();
    as_owner(|session| {
        store::inspect::job(session, id)?.pass_to(&sink);
        Ok(())
    })?;
    Ok(Answer::Null)
}

/// `jobq.why(id)`
pub fn why(call: &Call) -> Outcome {
    let id = required(call.uuid(0), "id")?;
    let sentence = as_owner(|session| store::inspect::why(session, id, Timestamp::now()))?;
    Ok(sentence.map_or(Answer::Null, |sentence| Answer::Text(sentence.into())))
}

/// `jobq.stats(queue)`
pub fn stats(call: &Call) -> Outcome {
    let queue_argument = call.text(0);
    let queue = queue_name(&queue_argument, "queue")?;
    let sink = call.rows();
    as_owner(|session| {
        let queue = queue.map(|name| store::queues::by_name(session, name)).transpose()?;
        let (queue, now) = (queue.map(|queue| queue.id), Timestamp::now());
        match store::inspect::stats_known(session, queue, now)? {
            Some(rows) => rows.pass_to(&sink),
            None => store::inspect::stats(session, queue, now)?.pass_to(&sink),
        }
        Ok(())
    })?;
    Ok(Answer::Null)
}

/// `jobq._workers()`: the view jobq.workers.
pub fn workers(call: &Call) -> Outcome {
    let sink = call.rows();
    as_owner(|session| {
        if !store::inspect::workers_known(&sink)? {
            store::inspect::workers(session, true)?.pass_to(&sink);
        }
        Ok(())
    })?;
    Ok(Answer::Null)
}

/// `jobq.diagnose()`
pub fn diagnose(call: &Call) -> Outcome {
    let sink = call.rows();
    let database = pg::server::database_oid();
    let ticked_at = pg::shmem::maintainer(database).map(|slot| slot.ticked_at.load(SeqCst)).filter(|at| *at != 0);
    let usage = pg::stripes::usage();
    as_owner(|session| {
        let (checkpoints_timed, checkpoints_requested) = store::inspect::checkpoints(session)?;
        let schema_version = store::inspect::extension(session)?.map_or_else(String::new, |(_, version)| version);
        let facts = Facts {
            now: Timestamp::now(),
            preloaded: pg::shmem::preloaded(),
            ticked_at: ticked_at.map(Timestamp),
            tick_interval_ms: settings::tick_interval_ms(),
            enabled: settings::enabled(),
            original: store::inspect::is_original(session, database)?,
            library_version: LIBRARY_VERSION,
            schema_version: &schema_version,
            checkpoints_timed,
            checkpoints_requested,
            in_recovery: pg::server::in_recovery(),
            dispatch: settings::dispatch(),
            slots_used: usage.used,
            slots: usage.slots,
            swept: usage.swept,
            unwoken: pg::shmem::unwoken(),
        };
        store::inspect::diagnose(session, &facts)?.pass_to(&sink);
        Ok(())
    })?;
    Ok(Answer::Null)
}

/// `jobq.version()`
pub fn version(_: &Call) -> Outcome {
    let schema = as_owner(|session| Ok(store::inspect::extension(session)?.map_or_else(String::new, |(_, version)| version)))?;
    Ok(Answer::Text(format!("library {LIBRARY_VERSION}, schema {schema}").into()))
}

/// `jobq._installed()`: the last statement of the install script.
pub fn installed(_: &Call) -> Outcome {
    if pg::shmem::preloaded() {
        pg::xact::announce_at_commit();
    } else {
        // Not a NOTICE: Postgres runs install scripts with client_min_messages = warning.
        pgrx::warning!(
            "jobq is not in shared_preload_libraries: the queue works, but nothing rescues the jobs of lost workers by itself. Add it and restart the server, or call jobq.tick() regularly. See jobq.diagnose()."
        );
    }
    Ok(Answer::Bool(pg::shmem::preloaded()))
}
