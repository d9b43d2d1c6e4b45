//! import_pg_cron: pg_cron's jobs become schedules and handlers.

use super::required;
use crate::error::Error;
use crate::pg;
use crate::pg::call::{Answer, Call, Outcome};
use crate::pg::define;
use crate::pg::handler::apart;
use crate::pg::spi::{Param, Session, as_caller};
use crate::rules::names;
use crate::store::pg_cron::{self, CronJob};
use pgrx::pg_sys::Oid;

/// A line of the answer.
struct Line {
    schedule: String,
    cron: String,
    kind: String,
    function: String,
    outcome: String,
}

/// `jobq.import_pg_cron(schema, dry_run, run_as)`
pub fn import_pg_cron(call: &Call) -> Outcome {
    let schema_argument = required(call.text(0), "schema")?;
    let schema = schema_argument.utf8("schema")?;
    let dry_run = call.boolean(1).unwrap_or(true);
    let run_as = call.oid(2);
    pg::server::refuse_if_read_only(c"jobq.import_pg_cron()");
    if !define::has_pg_cron() {
        return Err(Error::Unknown { what: "table", name: "cron.job: pg_cron is not installed in this database".into() });
    }
    let sink = call.rows();
    as_caller(|session| {
        for job in pg_cron::jobs(session)? {
            let line = import(session, &job, run_as.unwrap_or(job.role), schema, dry_run);
            sink.put(&[
                job.id.into(),
                Param::from(line.schedule.as_str()),
                Param::from(line.cron.as_str()),
                Param::from(line.kind.as_str()),
                Param::from(line.function.as_str()),
                Param::from(pg::server::role_name(run_as.unwrap_or(job.role)).unwrap_or(job.username).as_str()),
                Param::from(line.outcome.as_str()),
            ]);
        }
        Ok(())
    })?;
    Ok(Answer::Null)
}

fn import(session: &Session, job: &CronJob, role: Oid, schema: &str, dry_run: bool) -> Line {
    let function = format!("cron_job_{}", job.id);
    let mut line = Line {
        schedule: name_of(job),
        // pg_cron's word for the last day of a month.
        cron: job.schedule.replace('$', "L"),
        kind: format!("cron/{}", job.id),
        function: format!("{schema}.{function}"),
        outcome: String::new(),
    };
    let mut came_to_the_end = false;
    let outcome = apart(|| {
        if let Some(what) = define::not_for_a_function(&job.command) {
            return Err(Error::invalid("the command", format!("not contain {what}, which no function can run")));
        }
        let oid = define::function(schema, &function, &job.command);
        pg_cron::create_handler(session, &line.kind, oid, role)?;
        pg_cron::schedule(session, &line.schedule, &line.cron, &line.kind, &job.timezone, job.active)?;
        came_to_the_end = true;
        // A dry run undoes what it did.
        if dry_run { Err(Error::internal("dry run")) } else { Ok(()) }
    });
    line.outcome = match outcome {
        Ok(()) => "imported".into(),
        Err(_) if came_to_the_end => "can be imported".into(),
        Err(failure) => format!("skipped: {}", failure.message),
    };
    line
}

/// The job's own name, as far as names of schedules go.
fn name_of(job: &CronJob) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-') { c } else { '-' };
    let name: String = job.name.as_deref().unwrap_or_default().chars().map(fits).take(63).collect();
    if names::queue("name", &name).is_ok() { name } else { format!("cron-{}", job.id) }
}
