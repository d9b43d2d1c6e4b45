//! Reading pg_cron's jobs, and making them ours, with the rights of the caller.

use super::statement;
use crate::error::Error;
use crate::pg::spi::Session;
use pgrx::pg_sys::Oid;

pub struct CronJob {
    pub id: i64,
    pub schedule: String,
    pub command: String,
    pub role: Oid,
    pub username: String,
    pub active: bool,
    pub name: Option<String>,
    pub timezone: String,
}

pub fn jobs(session: &Session) -> Result<Vec<CronJob>, Error> {
    statement!(JOBS, "cron_jobs", [], Free);
    let rows = session.run(&JOBS, &[])?;
    let job = |row| {
        Some(CronJob {
            id: rows.bigint(row, 1)?,
            schedule: rows.string(row, 2)?,
            command: rows.string(row, 3)?,
            role: rows.oid(row, 4)?,
            username: rows.string(row, 5)?,
            active: rows.boolean(row, 6)?,
            name: rows.string(row, 7),
            timezone: rows.string(row, 8)?,
        })
    };
    Ok((0..rows.count()).filter_map(job).collect())
}

pub fn create_handler(session: &Session, kind: &str, function: Oid, role: Oid) -> Result<(), Error> {
    statement!(CREATE, "import_handler", [Text, Oid, Oid], Free);
    session.run(&CREATE, &[kind.into(), function.into(), role.into()]).map(|_| ())
}

pub fn schedule(session: &Session, name: &str, cron: &str, kind: &str, timezone: &str, active: bool) -> Result<(), Error> {
    statement!(SCHEDULE, "import_schedule", [Text, Text, Text, Text, Bool], Free);
    session.run(&SCHEDULE, &[name.into(), cron.into(), kind.into(), timezone.into(), active.into()]).map(|_| ())
}
