//! What a transaction has noted, against one list for each subtransaction.

use crate::dispatch::ledger::Ledger;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Step {
    Add(u8, i64),
    /// SAVEPOINT, RELEASE, ROLLBACK TO.
    Begin,
    Release,
    Undo,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..5u8, -3..9i64).prop_map(|(key, n)| Step::Add(key, n)),
        2 => Just(Step::Begin),
        1 => Just(Step::Release),
        1 => Just(Step::Undo),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    /// Until there is no room, the sums are those of all that was not undone; afterwards it says so until it is cleared.
    #[test]
    fn ledgers_are_what_was_not_undone(steps in steps()) {
        let mut ledger: Ledger<u8, i64, 12> = Ledger::new(0, 0);
        // The open subtransactions, each with its number.
        let mut naive: Vec<(u32, BTreeMap<u8, i64>)> = vec![(1, BTreeMap::new())];
        let (mut last, mut fits) = (1u32, true);
        for step in steps {
            let inner = naive.len() - 1;
            match step {
                Step::Add(key, n) => {
                    ledger.add(&key, &n, naive[inner].0);
                    *naive[inner].1.entry(key).or_default() += n;
                }
                Step::Begin => {
                    last += 1;
                    naive.push((last, BTreeMap::new()));
                }
                Step::Release if inner > 0 => {
                    let (number, sums) = naive.remove(inner);
                    let parent = &mut naive[inner - 1];
                    ledger.pass_on(number, parent.0);
                    sums.into_iter().for_each(|(key, n)| *parent.1.entry(key).or_default() += n);
                }
                Step::Undo if inner > 0 => ledger.undo(naive.remove(inner).0),
                Step::Release | Step::Undo => {}
            }
            fits &= naive.iter().map(|(_, sums)| sums.len()).sum::<usize>() <= 12;
            prop_assert_eq!(ledger.is_lost(), !fits);
            if fits {
                let (mut expected, mut found) = (BTreeMap::<u8, i64>::new(), BTreeMap::<u8, i64>::new());
                naive.iter().flat_map(|(_, sums)| sums).for_each(|(key, n)| *expected.entry(*key).or_default() += n);
                ledger.iter().for_each(|(key, n)| *found.entry(*key).or_default() += n);
                prop_assert_eq!(found, expected);
            }
        }
        ledger.clear();
        prop_assert!(!ledger.is_lost() && ledger.iter().next().is_none());
    }
}
