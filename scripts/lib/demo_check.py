"""The demo's closing account: what happened, and whether it is what should have happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg

from demo_input import Corpus
from demo_screen import duration, table
from demo_worker import faults_of

NAMES_SHOWN = 5
WAITS_ENOUGH = 20                 # a 99th percentile of fewer says nothing


@dataclass
class Plan:
    """What was put into the queue, written down by the producer: the demo is judged by this."""

    corpus: Corpus
    documents: dict[str, str] = field(default_factory=dict)      # job id by path
    batches: dict[int, int] = field(default_factory=dict)        # number of documents by batch
    samples: list[str] = field(default_factory=list)             # job ids
    poison: str = ""
    lost_file: str = ""
    orphaned: str = ""                                           # the job whose worker is killed

    def jobs(self) -> int:
        reports = len(self.batches)
        return len(self.documents) + reports + len(self.samples) + bool(self.poison) + bool(self.lost_file)


@dataclass(frozen=True)
class Check:
    what: str
    wrong: list[str]              # empty: all is well


# retried: attempts that ended with an error and were followed by another; rescued: attempts whose worker was lost.
WHAT_HAPPENED = """
    SELECT kind, count(*), count(*) FILTER (WHERE state = 'completed'),
           sum(greatest(attempt - 1 - crashes, 0)),
           sum(crashes), count(*) FILTER (WHERE state = 'failed'),
           count(*) FILTER (WHERE state IN ('pending', 'running')),
           count(waited), percentile_cont(0.5) WITHIN GROUP (ORDER BY waited),
           percentile_cont(0.99) WITHIN GROUP (ORDER BY waited)
    FROM (SELECT *, CASE WHEN crashes = 0 THEN extract(epoch FROM claimed_at - run_at)::float8 END AS waited
          FROM jobq.jobs WHERE queue = 'demo') AS jobs
    GROUP BY kind ORDER BY count(*) DESC, kind"""


def print_account(db: psycopg.Connection, plan: Plan, rescue: str) -> bool:
    """The closing table and the checks. Returns whether all of them hold."""
    print(f"\n{_what_happened(db)}\n")
    print("  wait: from the moment a job was due until a worker had it (jobs that lost a worker not counted)")
    print(f"  median wait of documents by priority: {_waits_by_priority(db)}")
    print(f"  {rescue}")
    print(f"  the words found most often: {_frequent_words(db)}\n")
    good = True
    for check in _checks(db, plan):
        good = good and not check.wrong
        print("\n".join([f"  {'FAILED' if check.wrong else 'ok'}: {check.what}", *(f"    {w}" for w in check.wrong)]))
    print("\nIn jobq.failed_jobs, until somebody retries or deletes them:")
    for job, kind, error in db.execute("SELECT id, kind, last_error FROM jobq.failed_jobs ORDER BY finished_at"):
        print(f"  {kind} {job}\n    {error}")
    for name, status, detail, hint in db.execute(
            "SELECT check_name, status, detail, hint FROM jobq.diagnose() WHERE status IN ('warn', 'error')"):
        print("\n".join([f"jobq.diagnose(): {status}: {name}: {detail}", *([f"  {hint}"] if hint else [])]))
    return good


def _what_happened(db: psycopg.Connection) -> str:
    rows = []
    for kind, jobs, done, retried, rescued, failed, unfinished, waits, p50, p99 in db.execute(WHAT_HAPPENED):
        shown = (duration(p50), duration(p99)) if waits >= WAITS_ENOUGH else ("-", "-")
        numbers = (jobs, done, retried or 0, rescued, failed, unfinished)
        rows.append([kind, *(f"{n:,}" for n in numbers), *shown])
    return table(["kind", "jobs", "done", "retried", "rescued", "failed", "unfinished", "p50 wait", "p99 wait"], rows)


def _waits_by_priority(db: psycopg.Connection) -> str:
    found = db.execute("""
        SELECT priority, percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM claimed_at - run_at)::float8)
        FROM jobq.jobs WHERE queue = 'demo' AND kind = 'index_document' AND claimed_at IS NOT NULL AND crashes = 0
        GROUP BY priority ORDER BY priority""").fetchall()
    names = {1: "high", 2: "normal", 3: "low"}
    return ", ".join(f"{names.get(priority, priority)} {duration(wait)}" for priority, wait in found)


def _frequent_words(db: psycopg.Connection) -> str:
    """Added up from the reports' results, which jobq keeps."""
    found = db.execute("""
        SELECT word FROM jobq.jobs AS j, jsonb_each(j.result -> 'top_words') AS top(word, n)
        WHERE j.queue = 'demo' AND j.kind = 'report_batch' AND j.state = 'completed'
        GROUP BY word ORDER BY sum(n::int) DESC, word LIMIT 8""").fetchall()
    return ", ".join(word for (word,) in found)


def _checks(db: psycopg.Connection, plan: Plan) -> Iterator[Check]:
    yield Check("every file was indexed exactly once, with its right size", _documents(db, plan))
    yield Check("every file's job is completed, with its result, and was retried as often as it had faults",
                _document_jobs(db, plan))
    yield Check("every batch has one report, and the reports add up to the input", _reports(db, plan))
    yield Check("the killed worker's job was rescued and done once", _samples(db, plan))
    yield Check("the poison job gave up after 3 lost workers; the lost file's job gave up too", _failed(db, plan))
    yield Check(f"every tick of the schedule was run once, inside the server ({_ticks(db)} ticks)", _schedule(db))
    yield Check("nothing is unfinished, nothing is in the queue that was not put there", _totals(db, plan))


def _documents(db: psycopg.Connection, plan: Plan) -> list[str]:
    rows = db.execute("SELECT path, bytes FROM demo.document").fetchall()
    times = Counter(path for path, _ in rows)
    expected = plan.corpus.sizes
    return [*_some("missing", [p for p in expected if p not in times]),
            *_some("more than once", [f"{p} ({n} times)" for p, n in times.items() if n > 1]),
            *_some("never asked for", [p for p in times if p not in expected]),
            *_some("other size than when listed", [p for p, size in rows if expected.get(p, size) != size])]


def _document_jobs(db: psycopg.Connection, plan: Plan) -> list[str]:
    rows = {str(row[0]): row[1:] for row in db.execute(
        "SELECT id, state, attempt, crashes, (result ->> 'bytes')::bigint FROM jobq.jobs"
        " WHERE queue = 'demo' AND kind = 'index_document'")}
    wrong = []
    for path, job in plan.documents.items():
        state, attempt, crashes, size = rows.get(job, ("not there", 0, 0, None))
        if state != "completed" or size != plan.corpus.sizes[path]:
            wrong.append(f"{path} (job {job}, {state}, result for {size} bytes)")
        elif crashes == 0 and attempt != 1 + faults_of(path):
            wrong.append(f"{path} (job {job}, done at attempt {attempt} instead of {1 + faults_of(path)})")
    return _some("wrong", wrong)


def _reports(db: psycopg.Connection, plan: Plan) -> list[str]:
    rows = db.execute("SELECT batch, documents FROM demo.report").fetchall()
    times = Counter(batch for batch, _ in rows)
    added = db.execute("SELECT coalesce(sum(documents), 0)::bigint, coalesce(sum(bytes), 0)::bigint"
                       " FROM demo.report").fetchone()
    wanted = (len(plan.documents), sum(plan.corpus.sizes.values()))
    return [*_some("batches without a report", [str(b) for b in plan.batches if b not in times]),
            *_some("batches with several reports", [str(b) for b, n in times.items() if n > 1]),
            *_some("reports with a wrong number of documents", [str(b) for b, n in rows if plan.batches.get(b) != n]),
            *([] if added == wanted else [f"the reports have {added} documents and bytes, the input {wanted}"])]


def _samples(db: psycopg.Connection, plan: Plan) -> list[str]:
    effects = Counter(str(job) for (job,) in db.execute("SELECT job FROM demo.sample"))
    wrong = [f"{job}: {effects[job]} results" for job in plan.samples if effects[job] != 1]
    crashes = db.execute("SELECT crashes FROM jobq.jobs WHERE id = %s", (plan.orphaned or None,)).fetchone()
    if crashes is None or crashes[0] < 1:
        wrong.append(f"{plan.orphaned or 'no job'}: was not rescued")
    return wrong


def _failed(db: psycopg.Connection, plan: Plan) -> list[str]:
    rows = {str(job): (crashes, attempt) for job, crashes, attempt in db.execute(
        "SELECT id, crashes, attempt FROM jobq.failed_jobs WHERE queue = 'demo'")}
    wrong = [f"{job} is not in jobq.failed_jobs" for job in (plan.poison, plan.lost_file) if job not in rows]
    wrong += [f"{job} failed, and should not have" for job in rows if job not in (plan.poison, plan.lost_file)]
    if plan.poison in rows and rows[plan.poison] != (3, 3):
        wrong.append(f"the poison job has (crashes, attempt) {rows[plan.poison]}")
    return wrong


def _ticks(db: psycopg.Connection) -> int:
    return db.execute("SELECT count(*) FROM jobq.jobs WHERE queue = 'inside'").fetchone()[0]


def _schedule(db: psycopg.Connection) -> list[str]:
    """Ticks are at equal distances, each has one job, and each job one effect."""
    jobs = db.execute("SELECT id, (headers ->> 'jobq_tick')::timestamptz, state FROM jobq.jobs WHERE queue = 'inside' ORDER BY 2").fetchall()
    effects = Counter(job for (job,) in db.execute("SELECT job FROM demo.total"))
    distances = Counter(later[1] - earlier[1] for earlier, later in zip(jobs, jobs[1:]))
    return [*_some("not completed", [str(id) for id, _, state in jobs if state != "completed"]),
            *_some("without exactly one effect", [str(id) for id, _, _ in jobs if effects[id] != 1]),
            *([f"distances between ticks: {dict(distances)}"] if len(distances) != 1 else []),
            *([] if sum(effects.values()) == len(jobs) else [f"{sum(effects.values())} effects of {len(jobs)} jobs"])]


def _totals(db: psycopg.Connection, plan: Plan) -> list[str]:
    states = dict(db.execute("SELECT state, count(*) FROM jobq.jobs WHERE queue = 'demo' GROUP BY state").fetchall())
    wrong = [f"{states[s]} jobs are {s}" for s in states if s not in ("completed", "failed")]
    if sum(states.values()) != plan.jobs():
        wrong.append(f"{sum(states.values())} jobs instead of {plan.jobs()}")
    return wrong


def _some(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return [f"{len(names)} {what}: {', '.join(names[:NAMES_SHOWN])}{more}"]
