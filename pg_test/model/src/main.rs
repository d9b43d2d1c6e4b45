//! The dispatcher's protocol in simulation: transactions, refills, sweeps and waiters around the real structures of src/dispatch.
//!
//! `run` beside this project builds and calls it; README.md says what is modelled. Prints lines of verdict, name and details,
//! separated by tabs.

// In the order in which they are worth reading.
mod check;
mod claim;
mod ends;
mod heap;
mod memory;
mod notes;
mod ops;
mod refill;
mod rules;
mod scenes;
mod search;
mod simulate;
mod turn;
mod wait;
mod world;

// The code under test. Not all of it is used here, and this is no test build: its own tests need a crate.
#[allow(dead_code)]
#[path = "../../../src/dispatch/mod.rs"]
mod dispatch;

use rules::{By, Rule, without};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// States of a search in the short form.
const STATES: usize = 150_000;

/// A scene in which a rule would be missed is searched to its end.
const RULE_STATES: usize = 300_000;

/// Random walks with a rule taken away.
const WALKS: u64 = 3_000;

fn verdict(verdict: &str, name: &str, details: &str, trace: &[String]) {
    println!("{verdict}\t{name}\t{details}");
    for line in trace {
        println!("#   {line}");
    }
}

/// Searches all orders of events of a scene; prints the verdict.
fn explore(name: &str, world: &world::World, most: usize) {
    let outcome = search::search(world.clone(), most);
    match outcome.wrong {
        Some((wrong, path)) => {
            let trace = search::tell(world.clone(), &path);
            verdict("broken", name, &format!("{wrong} ({} steps, {} states)", path.len(), outcome.states), &trace);
        }
        None if outcome.is_cut => verdict("cut", name, &format!("the first {} states", outcome.states), &[]),
        None => verdict("holds", name, &format!("all {} states", outcome.states), &[]),
    }
}

fn scenes(most: usize) {
    for rule in Rule::ALL {
        let help = Some(*rule).filter(|rule| rule.by() == By::Nobody);
        without(help, || explore(&format!("{rule:?} {}", rule.what()), &scenes::scene(*rule), most.max(RULE_STATES)));
    }
    for (name, world) in scenes::crowds() {
        explore(name, &world, most);
    }
}

/// Takes away one after the other of the rules that the model obeys, or those that the structures do.
fn mutants(by: By) {
    for rule in Rule::ALL.iter().filter(|rule| rule.by() == by) {
        // The scene begins with all rules.
        let world = scenes::scene(*rule);
        let name = format!("{rule:?} {}", rule.what());
        without(Some(*rule), || {
            explore(&name, &world, STATES);
            let found = (1..=WALKS).find_map(|seed| Some((seed, simulate::walk(seed, false).wrong?)));
            let found = found.map(|(seed, wrong)| format!("found by the simulation with seed {seed}: {wrong}"));
            verdict(
                "walks",
                &name,
                &found.unwrap_or_else(|| format!("not found by the simulation with seeds 1 to {WALKS}")),
                &[],
            );
        });
    }
}

/// Walks from a seed on, until so many steps are made or the time is over.
fn simulate(first: u64, walks: u64, steps: u64, limit: Duration, tells: bool) {
    let begun = Instant::now();
    let (mut made, mut handed_out, mut seed) = (0, 0, first);
    while made < steps && seed - first < walks && begun.elapsed() < limit {
        let walk = simulate::walk(seed, tells);
        made += walk.steps;
        handed_out += walk.handed_out;
        if let Some(wrong) = walk.wrong {
            let log = simulate::walk(seed, true).log;
            let last = if tells { 0 } else { log.len().saturating_sub(60) };
            verdict("broken", "simulation", &format!("seed {seed}: {wrong} (step {})", walk.steps), &log[last..]);
            return;
        }
        walk.log.iter().for_each(|line| println!("#   {line}"));
        seed += 1;
    }
    verdict("holds", "simulation", &format!("{made} steps, seeds {first} to {}, {handed_out} jobs handed out", seed - 1), &[]);
}

fn main() -> ExitCode {
    if !memory::is_seen_right() {
        eprintln!("EntryView in memory.rs is no longer laid out like Entry in src/dispatch/stripe.rs");
        return ExitCode::FAILURE;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: u64| args.get(at).and_then(|arg| arg.parse().ok()).unwrap_or(otherwise);
    match args.first().map(String::as_str) {
        Some("scenes") => scenes(number(1, STATES as u64) as usize),
        Some("mutants") => mutants(if args.get(1).is_some_and(|which| which == "inside") { By::Structures } else { By::Model }),
        Some("simulate") => {
            simulate(number(1, 1), u64::MAX, number(2, 100_000), Duration::from_secs(number(3, u64::MAX / 2)), false);
        }
        Some("seed") => simulate(number(1, 1), 1, u64::MAX, Duration::from_secs(u64::MAX / 2), true),
        _ => {
            eprintln!("model scenes [STATES] | mutants around|inside | simulate SEED STEPS [SECONDS] | seed SEED");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
