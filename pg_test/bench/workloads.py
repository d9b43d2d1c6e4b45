"""The list of workloads; each module of workloads adds its own with the decorator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from book import Page
from stage import Stage

Play = Callable[[Stage, Page], None]


@dataclass(frozen=True)
class Workload:
    name: str
    about: str
    quick: bool
    play: Play


ALL: list[Workload] = []


def workload(name: str, about: str, *, quick: bool = True) -> Callable[[Play], Play]:
    def add(play: Play) -> Play:
        ALL.append(Workload(name, about, quick, play))
        return play

    return add


def load_all() -> list[Workload]:
    import over_time  # noqa: F401
    import pools  # noqa: F401
    import through_clients  # noqa: F401
    import through_sql  # noqa: F401
    import waiting  # noqa: F401

    return sorted(ALL, key=lambda w: ORDER.index(w.name))


ORDER = ["single-1", "single-8", "single-32", "batch-1", "batch-8", "payload-1k", "wal", "in-flight", "pending", "waiting", "mixed",
         "memory", "pinned", "pool", "clients", "clients-drain", "clients-latency"]
