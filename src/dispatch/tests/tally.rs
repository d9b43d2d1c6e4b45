//! Tallies against transactions that are all remembered, with counts whose snapshots see some of them.

use crate::dispatch::stripe::QueueKey;
use crate::dispatch::tally::{NO_QUEUE, SPANS, Tallies, Tally, Told, What};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    /// A transaction commits; its callback comes later.
    Commit {
        queue: i32,
        what: u8,
        back: i64,
        n: i64,
    },
    /// The callback of the oldest transaction that has not had one.
    Callback,
    BeginCount,
    EndCount,
    /// Quarters of an hour go by.
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..16u8, 0..4i32, 0..3u8, 0..200i64, -3..9i64).prop_map(|(kind, queue, what, back, n)| match kind {
        0 => Step::BeginCount,
        1 => Step::EndCount,
        2 => Step::Wait(back),
        3..=8 => Step::Callback,
        _ => Step::Commit { queue, what, back: back % 40, n },
    });
    prop::collection::vec(step, 1..400)
}

#[derive(Clone, Copy)]
struct Change {
    key: QueueKey,
    what: What,
    n: i64,
    /// Which one it was, in the order of commits.
    number: usize,
}

proptest! {
    /// Whatever comes between commits, callbacks and counts: when all callbacks have run, the numbers are those of all transactions.
    #[test]
    fn tallies_are_what_was_committed(steps in steps(), loss in any::<bool>()) {
        let (mut keys, mut tallies) = (vec![NO_QUEUE; 4], vec![Tally::NONE; 4]);
        let mut table = Tallies { keys: &mut keys, tallies: &mut tallies };
        let mut now = 1_000i64;
        let mut committed: Vec<Change> = Vec::new();
        let mut called = 0usize;
        // How many transactions the snapshot of the count under way sees, and how many that of the last one that was ended.
        let mut counting: Option<usize> = None;
        let mut counted = 0usize;
        // Numbers that were lost are right again after a count.
        let mut is_known = !loss;
        if loss {
            table.add(&QueueKey { database: 1, installation: 1, queue: 0 }, What::Unfinished, 77, false);
        }
        let end = |table: &mut Tallies<'_>, committed: &[Change], seen: usize| {
            table.end(1);
            for change in committed.iter().take(seen) {
                table.add(&change.key, change.what, change.n, false);
            }
        };
        for step in steps.into_iter().chain([Step::EndCount]) {
            match step {
                Step::Commit { queue, what, back, n } => {
                    let span = now - back;
                    let what = [What::Unfinished, What::Failed(span), What::Completed(span)][usize::from(what)];
                    let key = QueueKey { database: 1, installation: 1, queue };
                    committed.push(Change { key, what, n, number: committed.len() });
                }
                Step::Callback => {
                    if let Some(change) = committed.get(called) {
                        called += 1;
                        if counting.is_some() || change.number >= counted {
                            let unseen = counting.is_some_and(|seen| change.number >= seen);
                            prop_assert!(table.add(&change.key, change.what, change.n, unseen));
                        }
                    }
                }
                Step::BeginCount => {
                    table.begin(1);
                    counting = Some(committed.len());
                }
                Step::EndCount => {
                    if let Some(seen) = counting.take() {
                        end(&mut table, &committed, seen);
                        (is_known, counted) = (true, seen);
                    }
                }
                Step::Wait(spans) => now += spans,
            }
        }
        for change in committed[called..].iter().filter(|change| change.number >= counted) {
            table.add(&change.key, change.what, change.n, false);
        }
        if !is_known {
            return Ok(());
        }
        let since = now - 90;
        for queue in 0..4 {
            let key = QueueKey { database: 1, installation: 1, queue };
            let mut expected = Told::default();
            for change in committed.iter().filter(|change| change.key == key) {
                expected.add(change.what, change.n, since);
            }
            prop_assert_eq!(table.tell(&key, since), expected);
        }
        prop_assert!(SPANS as i64 > 90 + 30);
    }
}
