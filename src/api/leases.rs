//! Private functions for views and rescues: what shared memory knows of a lease.

use super::required;
use crate::error::Error;
use crate::pg::call::{Answer, Call, Outcome};
use crate::pg::leases;
use uuid::Uuid;

/// A job that was never claimed has no lease: 0 is none.
fn lease(call: &Call) -> Result<(Uuid, i64), Error> {
    Ok((required(call.uuid(0), "id")?, call.bigint(1).unwrap_or(0)))
}

fn answer<T>(value: Option<T>, kind: impl FnOnce(T) -> Answer) -> Outcome {
    Ok(value.map_or(Answer::Null, kind))
}

/// `jobq._seen_at(id, lease, seen_at)`: the later of the two.
pub fn seen_at(call: &Call) -> Outcome {
    let (id, lease) = lease(call)?;
    answer(call.timestamp(2).max(leases::known(id, lease).map(|known| known.1)), Answer::Timestamp)
}

/// `jobq._lease_expires_at(id, lease, lease_expires_at)`: the later of the two.
pub fn lease_expires_at(call: &Call) -> Outcome {
    let (id, lease) = lease(call)?;
    answer(call.timestamp(2).max(leases::known(id, lease).map(|known| known.0)), Answer::Timestamp)
}

/// `jobq._progress(id, lease, progress)`: the one told last, which is in shared memory if there is one.
pub fn progress(call: &Call) -> Outcome {
    let (id, lease) = lease(call)?;
    let told = leases::known(id, lease).map(|known| known.2).filter(|progress| *progress >= 0.0);
    answer(told.or(call.double(2)), Answer::Double)
}

/// `jobq._is_kept(id, lease, expired, not_seen_since)`
pub fn is_kept(call: &Call) -> Outcome {
    let (id, lease) = lease(call)?;
    Ok(Answer::Bool(leases::is_kept(id, lease, required(call.boolean(2), "expired")?, call.timestamp(3))))
}

/// `jobq._is_lost(id, lease, expired, not_seen_since)`
pub fn is_lost(call: &Call) -> Outcome {
    let (id, lease) = lease(call)?;
    Ok(Answer::Bool(leases::is_lost(id, lease, required(call.boolean(2), "expired")?, call.timestamp(3))))
}
