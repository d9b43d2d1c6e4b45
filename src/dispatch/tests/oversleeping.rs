//! The shortest ways to sleep while there is a job.

use super::waiting::{Checked, World};

const A: u32 = 0;
const B: u32 = 1;
const OTHER: u32 = 2;

/// He has joined a line, found nothing, and sleeps.
fn sleeper(world: &mut World, queue: i32, kind: u32) -> Checked {
    world.join(&[queue], &[kind])?;
    world.goes_on(world.sessions.len() - 1)
}

fn offer(world: &mut World, queue: i32, priority: i32, kind: u32, ahead: i64) -> Checked {
    let job = world.new_job(queue, priority, kind, ahead);
    world.offer(queue, &[job])
}

/// The one who died had been woken for the job of kind A. What he leaves behind is passed on for the job of kind B, to one who then
/// does not get it.
#[test]
fn who_was_woken_in_vain_passes_on_what_he_cannot_use() -> Checked {
    let mut world = World::all_known(3)?;
    sleeper(&mut world, 1, A)?;
    sleeper(&mut world, 1, A)?;
    offer(&mut world, 1, 1, A, 0)?;
    offer(&mut world, 1, 0, B, 0)?;
    world.join(&[1], &[B])?;
    world.dies(0)?;
    assert!(world.claim(1, &[B])?);
    world.settle()
}

/// The one who died had been woken for the last job; there are too many others to find out who wants it.
#[test]
fn who_was_woken_for_too_many_jobs_passes_on_what_he_cannot_use() -> Checked {
    let mut world = World::all_known(3)?;
    (0..32).try_for_each(|_| offer(&mut world, 1, 0, OTHER, 0))?;
    for kind in [A, B, A] {
        sleeper(&mut world, 1, kind)?;
    }
    offer(&mut world, 1, 1, A, 0)?;
    world.dies(0)?;
    world.settle()
}

/// The one who died had been woken for a job behind the horizon.
#[test]
fn who_was_woken_for_something_unknown_passes_on_what_he_cannot_use() -> Checked {
    let mut world = World::all_known(3)?;
    let job = world.new_job(1, 0, OTHER, 0);
    world.let_go(1, &job)?;
    for kind in [A, B, A] {
        sleeper(&mut world, 1, kind)?;
    }
    offer(&mut world, 1, 1, A, 0)?;
    world.dies(0)?;
    world.settle()
}

/// As many jobs fall due in the first queue as can be woken for in one hold of the lock, and one in the second queue.
#[test]
fn a_queue_in_which_nobody_could_be_woken_is_not_left_asleep() -> Checked {
    let mut world = World::all_known(65)?;
    for _ in 0..64 {
        offer(&mut world, 1, 0, A, 1)?;
        sleeper(&mut world, 1, A)?;
    }
    offer(&mut world, 2, 0, A, 1)?;
    sleeper(&mut world, 2, A)?;
    world.now += 1_000_000;
    world.settle()
}
