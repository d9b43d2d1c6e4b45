//! The roster against transactions that are all remembered, with counts whose snapshots see some of them.

use crate::dispatch::ledger::Sum;
use crate::dispatch::roster::{NAME_BYTES, Name, Record, Roster, Worker, WorkerKey};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Step {
    /// A transaction commits; its callback comes later.
    Commit(Change),
    /// The callback of the oldest transaction that has not had one.
    Callback,
    BeginCount,
    EndCount,
    /// Another database, and another installation in this one, have workers of the same names; the other database is dropped.
    Elsewhere(u8),
    DropElsewhere,
}

#[derive(Debug, Clone, Copy)]
struct Change {
    worker: u8,
    record: Record,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..18u8, 0..6u8, any::<bool>(), -3..9i64, 0..50i64).prop_map(|(kind, worker, is_failed, n, at)| match kind {
        0 => Step::BeginCount,
        1 => Step::EndCount,
        2 => Step::Elsewhere(worker),
        3 => Step::DropElsewhere,
        4..=9 => Step::Callback,
        _ => {
            let (completed, failed) = if is_failed { (0, n) } else { (n, 0) };
            Step::Commit(Change { worker, record: Record { completed, failed, finished_at: at } })
        }
    });
    prop::collection::vec(step, 1..400)
}

/// Of different lengths, the longest as long as may be; all in one part, as in shared memory.
fn key(database: u32, worker: u8) -> WorkerKey {
    let name = [b'a' + worker; NAME_BYTES];
    let len = if worker == 5 { NAME_BYTES } else { usize::from(worker) * 3 };
    WorkerKey { database, installation: 7, name: Name::new(&name[..len]).unwrap_or(WorkerKey::NONE.name) }
}

proptest! {
    /// Whatever comes between commits, callbacks and counts: when all callbacks have run, the records are those of all transactions.
    #[test]
    fn the_roster_is_what_was_committed(steps in steps(), loss in any::<bool>()) {
        let (mut hashes, mut workers) = (vec![0; 18], vec![Worker::NONE; 18]);
        let mut roster = Roster { hashes: &mut hashes, workers: &mut workers };
        let mut committed: Vec<Change> = Vec::new();
        let mut called = 0usize;
        // How many transactions the snapshot of the count under way sees, and how many that of the last one that was ended.
        let mut counting: Option<usize> = None;
        let mut counted = 0usize;
        let mut elsewhere = 0i64;
        // What was lost is right again after a count.
        let mut is_known = !loss;
        if loss {
            roster.add(&key(1, 0), &Record { completed: 77, failed: 0, finished_at: 99 }, false);
        }
        for step in steps.into_iter().chain([Step::EndCount]) {
            match step {
                Step::Commit(change) => committed.push(change),
                Step::Callback => {
                    if let Some(change) = committed.get(called) {
                        if counting.is_some() || called >= counted {
                            let unseen = counting.is_some_and(|seen| called >= seen);
                            prop_assert!(roster.add(&key(1, change.worker), &change.record, unseen));
                        }
                        called += 1;
                    }
                }
                Step::BeginCount => {
                    roster.begin(1);
                    counting = Some(committed.len());
                }
                Step::EndCount => {
                    if let Some(seen) = counting.take() {
                        roster.end(1);
                        for change in committed.iter().take(seen) {
                            prop_assert!(roster.add(&key(1, change.worker), &change.record, false));
                        }
                        (is_known, counted) = (true, seen);
                    }
                }
                Step::Elsewhere(worker) => {
                    let one = Record { completed: 1, failed: 1, finished_at: 60 };
                    prop_assert!(roster.add(&key(2, worker), &one, false));
                    elsewhere += 1;
                    // Nobody counts an installation that is gone: it is forgotten with the next count.
                    let former = WorkerKey { installation: 8, ..key(1, worker) };
                    prop_assert!(roster.add(&former, &one, false));
                }
                Step::DropElsewhere => {
                    roster.keep_only(|database| database == 1);
                    elsewhere = 0;
                }
            }
        }
        for (_, change) in committed.iter().enumerate().skip(called.max(counted)) {
            prop_assert!(roster.add(&key(1, change.worker), &change.record, false));
        }
        prop_assert_eq!(roster.tell(2, 7).map(|(_, record)| record.completed).sum::<i64>(), elsewhere);
        if !is_known {
            return Ok(());
        }
        let mut expected: BTreeMap<Vec<u8>, Record> = BTreeMap::new();
        for change in &committed {
            expected.entry(key(1, change.worker).name.bytes().to_vec()).or_default().add(&change.record);
        }
        let mut told: BTreeMap<Vec<u8>, Record> = BTreeMap::new();
        for (name, record) in roster.tell(1, 7) {
            prop_assert!(told.insert(name.bytes().to_vec(), record).is_none());
        }
        for records in [&mut expected, &mut told] {
            records.retain(|_, record| (record.completed, record.failed) != (0, 0));
        }
        prop_assert_eq!(told, expected);
    }
}

#[test]
fn a_full_roster_says_so() {
    let (mut hashes, mut workers) = (vec![0; 2], vec![Worker::NONE; 2]);
    let mut roster = Roster { hashes: &mut hashes, workers: &mut workers };
    let one = Record { completed: 1, failed: 0, finished_at: 5 };
    assert!(roster.add(&key(1, 1), &one, false) && roster.add(&key(1, 2), &one, false));
    assert!(!roster.add(&key(1, 3), &one, false));
    assert!(roster.add(&key(1, 2), &one, false));
    // A count that finds the first one only.
    roster.begin(1);
    roster.end(1);
    assert!(roster.add(&key(1, 1), &one, false) && roster.add(&key(1, 3), &one, false));
    let names: Vec<Vec<u8>> = roster.tell(1, 7).map(|(name, _)| name.bytes().to_vec()).collect();
    assert_eq!(names, [vec![b'b'; 3], vec![b'd'; 9]]);
    assert_eq!(key(1, 5).name.bytes().len(), NAME_BYTES);
    assert!(Name::new(&[b'x'; NAME_BYTES + 1]).is_none());
}
