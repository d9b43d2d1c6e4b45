"""The demo's workers: a small supervisor that starts them, and starts a new one when one dies."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from machine import SetupError

STOP_SECONDS_MAX = 10
QUICK_DEATHS_MAX = 10             # in a row: then the workers cannot work at all


@dataclass
class Member:
    place: int
    name: str
    process: subprocess.Popen
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Death:
    name: str
    successor: str
    how: str


class Crew:
    """`with Crew(...) as crew:` starts the workers; at the end of the block they are asked to stop, then made to.

    Worker 2's successors are called worker-2.2, worker-2.3, ...: a name that dies never comes back, so that nobody
    takes the job of the dead one for a job of the new one."""

    def __init__(self, size: int, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.size, self.command, self.env, self.log = size, command, env, log
        self.members: dict[int, Member] = {}
        self.births = dict.fromkeys(range(1, size + 1), 0)
        self.quick_deaths = 0

    def __enter__(self) -> Crew:
        try:
            for place in self.births:
                self._start(place)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, place: int) -> Member:
        self.births[place] += 1
        name = f"worker-{place}.{self.births[place]}"
        with self.log.open("a") as log:
            # A session of its own: Ctrl-C in the terminal is for the demo, which then stops its workers in order.
            process = subprocess.Popen([*self.command, "--name", name], env=dict(self.env), stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=log, start_new_session=True, preexec_fn=_end_with_parent)
        self.members[place] = Member(place, name, process)
        return self.members[place]

    def names(self) -> list[str]:
        return [self.members[place].name for place in sorted(self.members)]

    def member(self, name: str) -> Member | None:
        return next((m for m in self.members.values() if m.name == name), None)

    def signal(self, name: str, sign: signal.Signals) -> bool:
        """False if that worker is gone already."""
        member = self.member(name)
        if member is None or member.process.poll() is not None:
            return False
        member.process.send_signal(sign)
        return True

    def replace_dead(self) -> Iterator[Death]:
        for place, member in list(self.members.items()):
            code = member.process.poll()
            if code is None:
                continue
            lived = time.monotonic() - member.started
            self.quick_deaths = self.quick_deaths + 1 if lived < 1 and code != -signal.SIGKILL else 0
            if self.quick_deaths > QUICK_DEATHS_MAX:
                words = self.log.read_text(errors="replace")[-2000:]
                raise SetupError(f"the workers die as soon as they start:\n{words}")
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            yield Death(member.name, self._start(place).name, how)

    def stop(self) -> None:
        running = [m.process for m in self.members.values() if m.process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS_MAX
        for process in running:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_with_parent() -> None:
    """In the child: Linux then sends it SIGTERM if the demo itself is killed and cannot clean up."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(signal.SIGTERM), 0, 0, 0)
