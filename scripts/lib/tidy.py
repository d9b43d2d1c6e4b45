"""Checks of the source itself: format, lints, the rules of the house, the install script."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from machine import REPO, only_one, scratch
from runner import Log, Outcome
from toolchain import cargo_deny, cargo_env, cargo_pgrx, postgres, venv

SRC = REPO / "src"
FILE_LINES_MAX = 600
PGSPOT = "pgspot==0.9.4"

Check = Callable[[int, Log], list[str]]


def run(major: int, log: Log) -> Outcome:
    """Every check counts as one test; one that finds problems has failed."""
    outcome = Outcome(0, 0)
    report = []
    for name, check in CHECKS.items():
        problems = check(major, log)
        report += [f"{'FAILED' if problems else 'ok'}: {name}", *(f"  {problem}" for problem in problems)]
        outcome += Outcome(0, 1) if problems else Outcome(1, 0)
    log.write("\n".join(report))
    return outcome


def formatted(_: int, log: Log) -> list[str]:
    code, _ = log.run(["cargo", "fmt", "--check"])
    return ["run `cargo fmt`"] if code else []


def linted(major: int, log: Log) -> list[str]:
    majors = {major, *(int(m) for m in os.environ.get("JOBQ_TEST_MAJORS", "").split())}
    problems = []
    for each in sorted(majors):
        command = ["cargo", "clippy", "--all-targets", "--no-default-features", "--features", f"pg{each} pg_test",
                   "--", "-D", "warnings"]
        with only_one("build"):
            code, _ = log.run(command, env=cargo_env(postgres(each)))
        if code:
            problems.append(f"clippy for Postgres {each}: see above")
    return problems


def unsafe_only_in_pg(*_: object) -> list[str]:
    # `#[unsafe(no_mangle)]` gives a background process' entry point its name and holds no code.
    return [f"{place}: unsafe outside src/pg" for path, code in _sources() if SRC / "pg" not in path.parents
            for place in _places(path, code, r"\bunsafe\b(?!\(no_mangle\))")]


def no_panics(*_: object) -> list[str]:
    """Clippy refuses these too, except where an attribute allows them; no attribute helps here."""
    pattern = r"\.unwrap\(\)|\.expect\(|\b(panic|todo|unimplemented|unreachable)!"
    return [f"{place}: may panic" for path, code in _sources() for place in _places(path, code, pattern)]


def short_files(*_: object) -> list[str]:
    counted = ((path, len(path.read_text().splitlines())) for path in sorted(SRC.rglob("*.rs")))
    return [f"{path.relative_to(REPO)}: {lines} lines, more than one idea" for path, lines in counted
            if lines > FILE_LINES_MAX]


def no_built_sql(*_: object) -> list[str]:
    """SQL is text in files and takes parameters; no string is pasted into it."""
    sql = (r"(?i)\b(select|with|values)\b[^\"]*\bfrom\b|\binsert\s+into\b|\bupdate\s+\S+\s+set\b|\bdelete\s+from\b"
           r"|\b(alter|create|drop|truncate|lock)\s+(table|index|schema|role|function|type|extension|view|sequence)\b"
           r"|\b(grant|revoke)\s[^\"]*\bon\b|\bset\s+(local|session|role)\b")
    problems = []
    for path in sorted(SRC.rglob("*.rs")):
        text = _without_comments(path.read_text())
        for found in re.finditer(r"\b(format|write|writeln|concat)!\s*\(", text):
            if re.search(sql, _balanced(text, found.end() - 1)):
                problems.append(f"{_place(path, text, found.start())}: SQL built from strings")
    for path in sorted((REPO / "sql").rglob("*.sql")):
        text = re.sub(r"--[^\n]*", "", path.read_text())
        for found in re.finditer(r"(?i)\bexecute\s+(?!function\b|procedure\b|on\b|privilege)[^;]*(\|\||\bformat\s*\()", text):
            problems.append(f"{_place(path, text, found.start())}: SQL built from strings")
    return problems


def release_profile(*_: object) -> list[str]:
    """A panic must unwind into an ERROR, and an overflow must be noticed, in what users run."""
    profile = tomllib.loads((REPO / "Cargo.toml").read_text()).get("profile", {}).get("release", {})
    wanted = {"panic": "unwind", "overflow-checks": True}
    return [f"Cargo.toml: profile.release.{key} must be {value!r}" for key, value in wanted.items()
            if profile.get(key) != value]


def control_file(*_: object) -> list[str]:
    """`schema` would let whoever made that schema first own the queue."""
    lines = (REPO / "jobq.control").read_text().splitlines()
    settings = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    problems = [f"jobq.control must not set {key}" for key in ("schema", "trusted") if key in settings]
    for key, value in (("relocatable", "false"), ("superuser", "true")):
        if settings.get(key) != value:
            problems.append(f"jobq.control: {key} must be {value}")
    return problems


def install_script(major: int, log: Log) -> list[str]:
    """What CREATE EXTENSION and ALTER EXTENSION UPDATE run, read as an attacker would."""
    install = postgres(major)
    script = scratch() / f"jobq-install-{major}.sql"
    script.unlink(missing_ok=True)
    with only_one("build"):
        code, _ = log.run([cargo_pgrx(), "pgrx", "schema", "--pg-config", install.pg_config, "--no-default-features",
                           "--features", f"pg{major}", "--out", script], env=cargo_env(install))
    if code or not script.exists() or not script.read_text().strip():
        return ["cargo pgrx schema produced nothing"]
    scripts = [script, *sorted((REPO / "sql").glob("jobq--*--*.sql"))]
    problems = []
    for path in scripts:
        text = re.sub(r"--[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        # A statement that adopts what is already there adopts what somebody else put there.
        for found in re.finditer(r"(?i)\bor\s+replace\b|\bif\s+not\s+exists\b", text):
            problems.append(f"{_place(path, text, found.start())}: {found[0]}")
        first = text.strip().split(";")[0].lower().split()
        if first != "set local search_path to pg_catalog, pg_temp".split():
            problems.append(f"{path.name}: the first statement must be SET LOCAL search_path TO pg_catalog, pg_temp")
    pgspot = venv("pgspot", [PGSPOT]).parent / "pgspot"
    code, output = log.run([pgspot, *scripts])
    if "Errors: 0" not in output or re.search(r"Errors: [1-9]", output) or code > 1:
        problems.append("pgspot found errors: see above")
    return problems


def no_threads(major: int, log: Log) -> list[str]:
    code, output = log.run(["cargo", "tree", "--edges", "normal", "--prefix", "none", "--no-default-features",
                            "--features", f"pg{major}"])
    found = sorted(set(re.findall(r"^(tokio|rayon|async-std|smol)\b", output, re.MULTILINE)))
    return [f"{name} would run in the server process" for name in found] + (["cargo tree failed"] if code else [])


def dependencies(_: int, log: Log) -> list[str]:
    code, _ = log.run([cargo_deny(), "check", "bans", "licenses", "sources"])
    return ["cargo deny: see above"] if code else []


# `#[cfg(test)]`, or any(test, ..), perhaps more attributes, and the module's name.
TEST_MODULE = r"#\[cfg\((?:any\()?test\b[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:pub\s+)?mod\s+(\w+)\s*"


def _sources() -> Iterator[tuple[Path, str]]:
    """Each file of src with comments, strings and test modules blanked out, lines kept."""
    codes = {path: _without_strings(_without_comments(path.read_text())) for path in sorted(SRC.rglob("*.rs"))}
    tests = {path.parent / f"{name}.rs" for path, code in codes.items()
             for name in re.findall(TEST_MODULE + r";", code)}
    for path, code in codes.items():
        if path not in tests:
            yield path, _without_tests(code)


# Strings first, so that a `//` inside one is no comment. Raw strings, strings, characters, comments.
TOKENS = re.compile(
    r'(?P<string>\bb?r(?P<hash>#*)".*?"(?P=hash)|\bb?"(?:\\.|[^"\\])*"|"(?:\\.|[^"\\])*"|\'(?:\\.[^\']*|[^\'\\])\')'
    r"|(?P<comment>//[^\n]*|/\*.*?\*/)", re.DOTALL)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _without_comments(text: str) -> str:
    return TOKENS.sub(lambda m: _blank(m[0]) if m["comment"] else m[0], text)


def _without_strings(text: str) -> str:
    return TOKENS.sub(lambda m: _blank(m[0]) if m["string"] else m[0], text)


def _without_tests(code: str) -> str:
    for found in re.finditer(TEST_MODULE + r"\{", code):
        end = found.end() - 1 + len(_balanced(code, found.end() - 1))
        code = code[:found.start()] + _blank(code[found.start():end]) + code[end:]
    return code


def _balanced(text: str, start: int) -> str:
    """From the bracket at `start` to the one that closes it."""
    pairs = {"(": ")", "{": "}"}
    opening, closing, depth = text[start], pairs[text[start]], 0
    plain = _without_strings(text)
    for position in range(start, len(plain)):
        depth += (plain[position] == opening) - (plain[position] == closing)
        if depth == 0:
            return text[start:position + 1]
    return text[start:]


def _place(path: Path, text: str, position: int) -> str:
    shown = path.relative_to(REPO) if REPO in path.parents else path.name
    return f"{shown}:{text.count(chr(10), 0, position) + 1}"


def _places(path: Path, code: str, pattern: str) -> list[str]:
    return [_place(path, code, found.start()) for found in re.finditer(pattern, code)]


CHECKS: dict[str, Check] = {
    "formatted as rustfmt does": formatted,
    "no warning from clippy": linted,
    "unsafe only in src/pg": unsafe_only_in_pg,
    "nothing in src panics on purpose": no_panics,
    f"no file of src over {FILE_LINES_MAX} lines": short_files,
    "no SQL built from strings": no_built_sql,
    "release profile unwinds and checks overflows": release_profile,
    "control file": control_file,
    "install and upgrade scripts": install_script,
    "no threads in the server process": no_threads,
    "licences, sources and bans of dependencies": dependencies,
}
