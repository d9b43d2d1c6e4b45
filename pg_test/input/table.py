"""Runs the cases of cases/*.toml. What a case may say:

row       the number in the bad-input catalogue, or several, or 'contract'
what      what is tried, for people
role      who calls: app (may do everything; the default), producer, worker, stranger, visitor
setup     statements of role app that come first, in another session; columns of their last rows become parameters: `:id`, `:lease`
before    statements of the session under test that come first, for example BEGIN
sql       the statement under test, or a list of which the last one is it; or instead:
every     a list of statements, each a case of its own
each      a list of values, each a case of its own: `:value` passes it as a parameter, `{value}` writes it into the SQL.
          (also in setup and check). `@name` is looked up in values.py
state     the SQLSTATE, or 'ok'; or a table of them by Postgres version; or a list of which any will do
names     what the message or its DETAIL must name, as a regular expression
unloaded  the SQLSTATE on the server without preload, where it is another one; then nothing else is looked at
hint      what the hint must contain
returns   the first row, columns joined by '|', NULL as nothing, booleans as t and f
rows      how many rows come back
check     a query of the superuser afterwards whose only value must be true

Parameters that are always there: `:q` (an own queue of the case), `:payload`, `:headers`.
After every case: no internal error, no payload in the message, the session lives and is as it was, the server was not restarted,
and if an error was expected, not one row of jobq's tables is different.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
from report import Failed, Report, expect, expect_equal
from values import CANARY, VALUES
from world import World

FIELDS = {"row", "what", "role", "setup", "before", "sql", "every", "each", "state", "unloaded", "names", "hint", "returns", "rows", "check"}
# jobq's own refusals say who speaks; these codes are raised by Postgres as well.
MUST_NAME = {"22004", "22023", "22001"}


@dataclass(frozen=True)
class Case:
    row: int | str | list[int]
    what: str
    state: str | list[str]
    sql: list[str]
    role: str = "app"
    setup: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    value: str | None = None
    unloaded: str | None = None
    names: str | None = None
    hint: str | None = None
    returns: str | None = None
    rows: int | None = None
    check: str | None = None

    def title(self) -> str:
        return f"[{', '.join(map(str, self.rows_covered()))}] {self.what}"

    def rows_covered(self) -> list[int | str]:
        return list(self.row) if isinstance(self.row, list) else [self.row]


def read(folder: Path, major: int) -> list[Case]:
    cases = []
    for path in sorted(folder.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["case"]:
            cases.extend(_expanded(path.name, entry, major))
    return cases


def _expanded(file: str, entry: dict[str, Any], major: int) -> Iterator[Case]:
    if (unknown := set(entry) - FIELDS) or ("sql" in entry) == ("every" in entry):
        raise ValueError(f"{file}: case {entry.get('what')!r}: unknown fields {unknown}, or not just one of sql and every")
    state = entry["state"][str(major)] if isinstance(entry["state"], dict) else entry["state"]
    statements = [_list(entry["sql"])] if "sql" in entry else [[s] for s in entry["every"]]
    for sql, value in product(statements, entry.get("each", [None])):
        what, setup, check = entry["what"], _list(entry.get("setup", [])), entry.get("check")
        if value is not None:
            sql, setup = ([s.replace("{value}", value) for s in steps] for steps in (sql, setup))
            check = check and check.replace("{value}", value)
        if len(statements) > 1 or (value is not None and "{value}" in "".join(_list(entry.get("sql", "")))):
            what += f": {sql[-1]}"
        if value is not None and ":value" in "".join(sql):
            what += f" <- {value!r}"
        if value and value[1:] and value.startswith("@"):
            value = VALUES[value[1:]]
        yield Case(entry["row"], what, state, sql, entry.get("role", "app"), setup, _list(entry.get("before", [])), value,
                   entry.get("unloaded"), entry.get("names"), entry.get("hint"), entry.get("returns"), entry.get("rows"), check)


def _list(one_or_more: str | list[str]) -> list[str]:
    return [one_or_more] if isinstance(one_or_more, str) else one_or_more


def run(world: World, cases: list[Case], report: Report, suffix: str = "") -> None:
    for case in cases:
        if not world.preload and case.unloaded:
            case = replace(case, state=case.unloaded, names=None, hint="shared_preload_libraries", returns=None, rows=None, check=None)
        if not report.wants(case.title() + suffix):
            continue
        with report.check(case.title() + suffix):
            _run(world, case)
        world.expect_same_server()


def _run(world: World, case: Case) -> None:
    known = {"q": world.new_queue(), "payload": f'{{"secret": "{CANARY}"}}', "headers": f'{{"trace": "{CANARY}"}}'}
    if case.value is not None:
        known["value"] = case.value
    for sql in case.setup:
        _execute(world.app, sql, known)
    session = world.session(case.role)
    for sql in case.before:
        _execute(session, sql, known)
    for sql in case.sql[:-1]:
        _execute(session, sql, known)
    before = world.fingerprint()
    rows: list[tuple[Any, ...]] = []
    try:
        rows = _execute(session, case.sql[-1], known)
        _expect_state("ok", case, "")
    except psycopg.Error as error:
        world.expect_clean_error(error)
        _expect_state(error.sqlstate or "none", case, str(error))
        _expect_message(case, error)
    finally:
        changed = "ok" not in case.state and world.fingerprint() != before
        world.expect_session_unharmed(session, case.role)
    expect(not changed, "the refused call has changed something in jobq's tables")
    if case.returns is not None:
        expect(rows, "no row came back")
        expect_equal("|".join(map(_shown, rows[0])), case.returns, "the first row")
    if case.rows is not None:
        expect_equal(len(rows), case.rows, "rows")
    if len(rows) > 1000:
        world.app.execute("SELECT jobq.drop_queue(%s, true)", [known["q"]])
    if case.check is not None:
        found = _execute(world.root, case.check, known)
        expect_equal([_shown(v) for row in found for v in row], ["t"], f"the check {case.check}")


def _expect_state(got: str, case: Case, message: str) -> None:
    wanted = _list(case.state)
    if got not in wanted:
        raise Failed(f"expected {' or '.join(wanted)}, got {got} {message}")


def _expect_message(case: Case, error: psycopg.Error) -> None:
    message = error.diag.message_primary or ""
    if case.names is not None:
        said = f"{message} {error.diag.message_detail or ''}"
        expect(re.search(rf"\b{case.names}\b", said), f"the message does not name {case.names}: {said}")
    elif error.sqlstate in MUST_NAME and message.startswith("jobq:"):
        raise Failed(f"the case does not say which argument the message must name: {message}")
    if case.hint is not None:
        expect(case.hint in (error.diag.message_hint or ""), f"no {case.hint!r} in the hint: {error.diag.message_hint}")


def _execute(session: psycopg.Connection[Any], sql: str, known: dict[str, str]) -> list[tuple[Any, ...]]:
    """Runs a statement and adds the columns of its first row to what is known."""
    used: dict[str, str] = {}

    def placeholder(match: re.Match[str]) -> str:
        if match[1] not in known:
            return match[0]
        used[match[1]] = known[match[1]]
        return f"%({match[1]})s"

    text = re.sub(r"(?<![:\w]):([a-z_]+)", placeholder, sql.replace("%", "%%"))
    # Everything goes as text of unknown type: the server decides, as it does for a literal.
    cursor = session.execute(text, used) if used else session.execute(sql)
    if cursor.description is None:
        return []
    rows = cursor.fetchall()
    if rows:
        columns = [column.name for column in cursor.description]
        known.update({name: str(value) for name, value in zip(columns, rows[0], strict=True) if value is not None})
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(value)
