"""The test suites: what each one runs, and what it needs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import build
import docscheck
import tidy
from cluster import SUPERUSER, Cluster
from machine import REPO, apt_install, give_to_server_user, is_root, only_one, private_dir, scratch, server_user
from runner import (COMMAND_SECONDS_MAX, Log, Outcome, TestFailure, cargo_counts, judged, pg_regress_counts, plain_counts, tap_counts)
from toolchain import cargo_env, cargo_pgrx, libfaketime, perl_modules, postgres

TESTS = REPO / "pg_test"
SERVER_SETTINGS = {"shared_preload_libraries": "jobq", "max_worker_processes": "16"}


@dataclass(frozen=True)
class Suite:
    name: str
    what: str
    run: Callable[[int, Log], Outcome]
    # 'source': no server, once. 'backend': compiles, a version at a time. 'server': uses the
    # installed release build; two of these run at a time. 'alone': last, nothing beside it, once.
    kind: str


def unit(major: int, log: Log) -> Outcome:
    # cargo-pgrx gives its own tests names that start with pg_; what is left needs no server. The
    # features are those of `cargo pgrx test`, so that both share one compilation.
    command = ["cargo", "test", "--lib", "--no-default-features", "--features", f"pg{major} pg_test",
               "--", "--skip", "::pg_"]
    with only_one("build"):
        code, output = log.run(command, env=cargo_env(postgres(major)))
    return judged(code, cargo_counts(output))


def model(major: int, log: Log) -> Outcome:
    code, output = log.run([TESTS / "model" / "run"])
    return judged(code, plain_counts(output))


def backend(major: int, log: Log) -> Outcome:
    # The socket lives beside the data, and socket paths are short: not in scratch.
    folder = Path(tempfile.mkdtemp(prefix="jobq-backend-", dir="/tmp"))
    give_to_server_user(folder)
    command = [cargo_pgrx(), "pgrx", "test", "--no-default-features", "--pgdata", folder]
    if is_root():
        if shutil.which("sudo") is None:
            apt_install("sudo")
        command += ["--runas", server_user().pw_name]
    try:
        with only_one("build"):
            code, output = log.run([*command, f"pg{major}", "::pg_"], env=cargo_env(postgres(major)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return judged(code, cargo_counts(output))


def regress(major: int, log: Log) -> Outcome:
    """Three times: as it is; without the dispatcher; and with a trigger on the job table, which has every call run its statements."""
    ways = [({}, {}), ({"jobq.dispatch": "off"}, {}), ({}, {"JOBQ_TEST_STATEMENTS": "1"})]
    outcomes = [_compare_outputs(major, log, "regress", "regress/pg_regress", "sql", ".sql", *way) for way in ways]
    return sum(outcomes[1:], outcomes[0])


def isolation(major: int, log: Log) -> Outcome:
    return _compare_outputs(major, log, "isolation", "isolation/pg_isolation_regress", "specs", ".spec")


def _compare_outputs(major: int, log: Log, name: str, program: str, folder: str, suffix: str,
                     settings: dict[str, str] | None = None, env: dict[str, str] | None = None) -> Outcome:
    names = [path.stem for path in _files(TESTS / name / folder, f"*{suffix}")]
    install = postgres(major)
    output_dir = scratch() / "results" / f"{name}-{major}"
    shutil.rmtree(output_dir, ignore_errors=True)
    output_dir.mkdir(parents=True)
    with Cluster(install, name, settings={**SERVER_SETTINGS, **(settings or {})}) as server:
        command = [install.testdir / program, f"--inputdir={TESTS / name}", f"--outputdir={output_dir}",
                   f"--bindir={install.bindir}", f"--host={server.socket_dir}", f"--port={server.port}",
                   f"--user={SUPERUSER}", f"--dbname={name}_test", "--load-extension=jobq", *names]
        code, output = log.run(command, env={**server.env(), **(env or {})})
        log.write(server.log_text())
    differences = output_dir / "regression.diffs"
    if differences.exists():
        log.write(differences.read_text(errors="replace"))
    return judged(code, pg_regress_counts(output))


def cluster(major: int, log: Log) -> Outcome:
    _files(TESTS / "cluster", "*.pl")
    install = postgres(major)
    # A copy, which the user that runs the servers can read wherever the checkout is.
    folder = private_dir(scratch() / "results" / f"cluster-{major}")
    copy = folder / "t"
    shutil.copytree(TESTS / "cluster", copy)
    # Debian ships the Perl test modules with its Postgres 15; they drive newer servers too.
    modules = [postgres(15).testdir / "perl", perl_modules(), copy]
    # Tests look for the word jobq in logs, which name the socket's folder.
    sockets = Path(tempfile.mkdtemp(prefix="tap-", dir="/tmp"))
    give_to_server_user(sockets)
    # An upgrade starts from the oldest version.
    oldest = build.install(15)
    env = {**_without_pg(), "PATH": f"{install.bindir}{os.pathsep}{os.environ['PATH']}",
           "PERL5LIB": os.pathsep.join(map(str, modules)), "PG_REGRESS": str(install.testdir / "regress/pg_regress"),
           "TESTDIR": str(folder), "TESTDATADIR": str(folder / "data"), "TESTLOGDIR": str(folder / "log"),
           "TMPDIR": str(sockets), "JOBQ_PG": str(major), "JOBQ_OLD_BINDIR": str(oldest.bindir)}
    # Before 16 a background process is forked in a signal handler, out of libfaketime's own select(),
    # and goes by the real clock for ever: a moved clock shows nothing there.
    if major >= 16:
        env["JOBQ_LIBFAKETIME"] = str(libfaketime())
    # JOBQ_CLUSTER: only the files with this in their names. JOBQ_SCHEDULE_SECONDS lasts as long as it says, twice.
    wanted = os.environ.get("JOBQ_CLUSTER", "")
    tests = sorted(str(p.relative_to(folder)) for p in copy.glob("*.pl") if wanted in p.name)
    timeout = COMMAND_SECONDS_MAX + 2 * int(os.environ.get("JOBQ_SCHEDULE_SECONDS", "0"))
    try:
        code, output = log.run(["prove", "--verbose", *tests], env=env, cwd=folder, as_server=True, timeout=timeout)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    return judged(code, tap_counts(output))


def own_runner(name: str) -> Callable[[int, Log], Outcome]:
    """A suite with a runner of its own, `pg_test/NAME/run --pg NN`, that ends with plain counts."""

    def run(major: int, log: Log) -> Outcome:
        runner = TESTS / name / "run"
        if not runner.exists():
            raise TestFailure(f"{runner.relative_to(REPO)} is missing")
        code, output = log.run([runner, "--pg", str(major)])
        return judged(code, plain_counts(output))

    return run


def docs(major: int, log: Log) -> Outcome:
    with Cluster(postgres(major), "docs", settings=SERVER_SETTINGS) as server:
        problems = docscheck.problems(server)
    log.write("\n".join(problems) or "docs/reference and the catalog agree")
    return Outcome(0, len(problems)) if problems else Outcome(1, 0)


def demo(major: int, log: Log) -> Outcome:
    script = REPO / "scripts" / "demo"
    if not script.exists():
        raise TestFailure("scripts/demo is missing")
    code, _ = log.run([script, "--quick"])
    return Outcome(1, 0) if code == 0 else Outcome(0, 1)


def _files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        raise TestFailure(f"no {pattern} in {folder.relative_to(REPO)}")
    return found


def _without_pg() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")}


SUITES = [
    Suite("tidy", "format, lints, rules of the house, install script, dependencies", tidy.run, "source"),
    Suite("unit", "plain tests of what needs no server", unit, "source"),
    Suite("model", "the dispatcher's protocol in simulation, and its rules taken away", model, "source"),
    Suite("backend", "#[pg_test] functions inside a server", backend, "backend"),
    Suite("regress", "SQL files against expected output (pg_regress)", regress, "server"),
    Suite("isolation", "races, step by step (isolationtester)", isolation, "server"),
    Suite("cluster", "processes, crashes, standbys, dumps (TAP)", cluster, "server"),
    Suite("input", "bad input: SQLSTATE, and nothing changed", own_runner("input"), "server"),
    Suite("clients", "real drivers and ORMs", own_runner("clients"), "server"),
    Suite("async_commit", "which claims wait for the disk and for standbys", own_runner("async_commit"), "server"),
    Suite("load", "batch discipline and HOT updates under load", own_runner("load"), "server"),
    Suite("dispatch", "no job is forgotten by the dispatcher", own_runner("dispatch"), "server"),
    Suite("pools", "handlers and pools: jobs that run inside the server", own_runner("pools"), "server"),
    Suite("docs", "docs/reference against the catalog", docs, "server"),
    Suite("demo", "scripts/demo, its short form", demo, "alone"),
]

