//! Lines of waiters against lists.

use crate::dispatch::waiters::{Line, Places, Room, Waiter};
use proptest::prelude::*;
use std::cell::RefCell;

/// What may happen in a room. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Join { line: usize, kinds: Vec<u32> },
    Rejoin(usize),
    Leave(usize),
    WakeFor { line: usize, kind: u32 },
    WakeForAny { line: usize },
}

/// Kinds that a waiter can name, of those that there are.
const NAMED: usize = 16;
const ALL_KINDS: u32 = 24;

/// None, some, or more kinds than fit.
fn some_kinds(from: u32, count: u32) -> Vec<u32> {
    (0..count).map(|n| (from + n * 5) % ALL_KINDS).collect()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let numbers = (0..20u32, 0..3usize, 0..ALL_KINDS, 0..20u32, 0..1_000usize);
    let step = numbers.prop_map(|(which, line, kind, count, waiter)| match which {
        0..4 => Step::Join { line, kinds: some_kinds(kind, count) },
        4..7 => Step::Join { line, kinds: some_kinds(kind % 3, count % 3) },
        7..11 => Step::Rejoin(waiter),
        11..14 => Step::Leave(waiter),
        14..18 => Step::WakeFor { line, kind: kind % 3 },
        18 => Step::WakeFor { line, kind },
        _ => Step::WakeForAny { line },
    });
    prop::collection::vec(step, 1..400)
}

/// One who waits. The list of all of them is in the order in which they came.
#[derive(Debug, Clone)]
struct Standing {
    line: usize,
    n: u32,
    owner: u64,
    kinds: Vec<u32>,
    woken: bool,
}

/// The kinds of those in a line, from the first to the last.
fn filters(room: &mut Room<'_>, line: &mut Line) -> Vec<Vec<u32>> {
    let seen = RefCell::new(Vec::new());
    let nobody = |waiter: &Waiter| {
        let kinds = (0..ALL_KINDS).filter(|kind| !waiter.wants_any() && waiter.wants(*kind));
        seen.borrow_mut().push(kinds.collect());
        false
    };
    room.wake(line, nobody);
    seen.into_inner()
}

fn same(room: &mut Room<'_>, lines: &mut [Line], naive: &[Standing]) -> Result<(), TestCaseError> {
    for (l, line) in lines.iter_mut().enumerate() {
        let of_line = || naive.iter().filter(|standing| standing.line == l);
        prop_assert_eq!(line.count as usize, of_line().count());
        let sorted = |standing: &Standing| {
            let mut kinds = standing.kinds.clone();
            kinds.sort_unstable();
            kinds.dedup();
            kinds
        };
        let expected: Vec<Vec<u32>> = of_line().filter(|standing| !standing.woken).map(sorted).collect();
        prop_assert_eq!(filters(room, line), expected);
    }
    for standing in naive {
        prop_assert!(room.is_at(standing.n, standing.owner));
        prop_assert_eq!(room.is_woken(standing.n), standing.woken);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Lines that share places are lists in which everybody keeps his place; in the end all places are free.
    #[test]
    fn lines_are_lists(steps in steps(), capacity in 0..40usize) {
        let (mut waiters, mut places) = (vec![Waiter::EMPTY; capacity], Places::default());
        let mut room = Room { waiters: &mut waiters, places: &mut places };
        let mut lines = [Line::EMPTY; 3];
        let mut naive: Vec<Standing> = vec![];
        for (owner, step) in (1..).zip(steps) {
            match step {
                Step::Join { line, mut kinds } => {
                    let joined = room.join(&mut lines[line], owner, &kinds);
                    prop_assert_eq!(joined.is_some(), naive.len() < capacity);
                    if let Some(n) = joined {
                        prop_assert!(n as usize <= capacity && naive.iter().all(|other| other.n != n), "not his place: {n}");
                        kinds.truncate(NAMED);
                        naive.push(Standing { line, n, owner, kinds, woken: false });
                    }
                }
                Step::Rejoin(who) if !naive.is_empty() => {
                    let count = naive.len();
                    let standing = &mut naive[who % count];
                    room.rejoin(&mut lines[standing.line], standing.n);
                    standing.woken = false;
                }
                Step::Leave(who) if !naive.is_empty() => {
                    let standing = naive.remove(who % naive.len());
                    room.leave(&mut lines[standing.line], standing.n);
                    prop_assert!(!room.is_at(standing.n, standing.owner));
                }
                Step::WakeFor { line, kind } => {
                    let wants = |other: &&mut Standing| other.kinds.is_empty() || other.kinds.contains(&kind);
                    let first = naive.iter_mut().filter(|other| other.line == line && !other.woken).find(wants);
                    let expected = first.map(|first| { first.woken = true; first.owner });
                    prop_assert_eq!(room.wake(&mut lines[line], |waiter| waiter.wants(kind)), expected);
                }
                Step::WakeForAny { line } => {
                    let first = naive.iter_mut().find(|other| other.line == line && !other.woken && other.kinds.is_empty());
                    let expected = first.map(|first| { first.woken = true; first.owner });
                    prop_assert_eq!(room.wake(&mut lines[line], Waiter::wants_any), expected);
                }
                _ => {}
            }
            // All of them now and then: it takes long.
            if owner.is_multiple_of(4) {
                same(&mut room, &mut lines, &naive)?;
            }
        }
        same(&mut room, &mut lines, &naive)?;
        for standing in naive.drain(..) {
            room.leave(&mut lines[standing.line], standing.n);
        }
        same(&mut room, &mut lines, &naive)?;
        prop_assert_eq!((0..1_000).filter(|_| room.join(&mut lines[0], 1, &[]).is_some()).count(), capacity);
    }
}
