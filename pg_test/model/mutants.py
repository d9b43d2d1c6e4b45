"""The rules that src/dispatch itself obeys, as changes of its text: with them a rule asks the model whether it is in force."""

from __future__ import annotations

import shutil
from pathlib import Path

# The rules that a change takes away; the file; what stands there; what stands there instead.
CHANGES = [
    (["D1"], "window.rs",
     "if self.refill != 0 {\n            return None;",
     "if self.refill != 0 && !OFF(D1) {\n            return None;"),
    (["D1"], "window.rs",
     "refill != 0 && self.refill == refill\n",
     "OFF(D1) || refill != 0 && self.refill == refill\n"),
    (["D2", "T4"], "window.rs",
     "self.horizon = self.horizon.max(next.min(self.floor));",
     "self.horizon = if OFF(D2) || OFF(T4) { next } else { self.horizon.max(next.min(self.floor)) };"),
    (["D2b"], "window.rs",
     "self.floor = self.floor.min(key);",
     "self.floor = if OFF(D2b) { self.floor } else { self.floor.min(key) };"),
    (["D10"], "stripe.rs",
     "if window.len() < share && fullest != Some((at, side)) {",
     "if !OFF(D10) && window.len() < share && fullest != Some((at, side)) {"),
    (["T3"], "stripe.rs",
     "} else if entry.clock.saturating_sub(now) > STEP_BACK_MICROS {\n",
     "} else if OFF(T3) {\n            entry.clock = now;\n        } else if entry.clock.saturating_sub(now) > STEP_BACK_MICROS {\n"),
    (["K1"], "stripe.rs",
     "            window.let_go(key);\n        }\n        self.wake_for_anything(at);",
     "            window.let_go(key);\n        }\n        if !OFF(K1) { self.wake_for_anything(at); }"),
    (["K2"], "stripe.rs",
     "if side == Side::Ready {\n",
     "if side == Side::Ready && !(OFF(K2) && candidate.ready_key() >= self.horizon(at, side)) {\n"),
    (["W2", "W3", "W5"], "stripe.rs",
     "self.pass_on(at, owes, 0, |_| true);\n        if owes {",
     "if OFF(W2) || OFF(W3) || OFF(W5) { return; }\n        self.pass_on(at, owes, 0, |_| true);\n        if owes {"),
    (["W4"], "waiters.rs",
     "if fit(&waiter) {",
     "if fit(&waiter) || OFF(W4) {"),
    (["W4"], "stripe.rs",
     "if let Some((waiter, ticket)) = owed.flatten() {",
     "if let Some((waiter, ticket)) = owed.flatten().filter(|_| !OFF(W4)) {"),
    (["K5"], "stripe.rs",
     "due.remove(&mut pool, &candidate.due_key());",
     "if !OFF(K5) { due.remove(&mut pool, &candidate.due_key()); }"),
    (["B2"], "stripe.rs",
     "idle.filter(|(_, entry)| entry.line.count == 0)",
     "idle.filter(|(_, entry)| entry.line.count == 0 || OFF(B2))"),
]


def change(dispatch: Path) -> dict[str, str]:
    """Changes a copy of src/dispatch. Returns the rules whose lines are not there any more, with what was looked for."""
    gone: dict[str, str] = {}
    for rules, name, before, after in CHANGES:
        path = dispatch / name
        text = path.read_text()
        if text.count(before) != 1:
            gone |= {rule: f"{name} has {text.count(before)} places like {before!r}" for rule in rules}
            continue
        for rule in rules:
            after = after.replace(f"OFF({rule})", f"crate::rules::off(crate::rules::Rule::{rule})")
        path.write_text(text.replace(before, after))
    return gone


def copy(repo: Path, to: Path) -> dict[str, str]:
    """A project like this one, on a changed copy of src/dispatch; see `change`."""
    shutil.rmtree(to, ignore_errors=True)
    model = to / "pg_test" / "model"
    shutil.copytree(repo / "pg_test" / "model", model, ignore=shutil.ignore_patterns("target", "__pycache__"))
    shutil.copytree(repo / "src" / "dispatch", to / "src" / "dispatch")
    return change(to / "src" / "dispatch")
