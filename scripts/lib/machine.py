"""This machine: where scratch files go, and which user servers run as.

Postgres refuses to run as root. On a machine where the scripts run as root (a container, CI),
every server and every test program that starts one runs as an unprivileged user instead; its
files then live in a folder that this user can reach.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


class SetupError(Exception):
    """Something the scripts need is missing; the message says what to do about it."""


def is_root() -> bool:
    return os.geteuid() == 0


def server_user() -> pwd.struct_passwd:
    """Who runs the servers: the caller, or for root an existing user without rights."""
    if not is_root():
        return pwd.getpwuid(os.geteuid())
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise SetupError("running as root, and there is neither a user postgres nor nobody to run servers as")


def scratch() -> Path:
    """The one folder everything downloaded, built for tests or started by them lives in."""
    folder = Path(os.environ.get("JOBQ_SCRATCH") or REPO / "target" / "jobq").absolute()
    if is_root() and not _reachable_by_others(folder):
        # A checkout under /root: the user that runs the servers could not enter it.
        folder = Path("/var/tmp") / f"jobq-{hashlib.sha256(str(REPO).encode()).hexdigest()[:12]}"
        if folder.exists() and folder.stat().st_uid != 0:
            raise SetupError(f"{folder} belongs to somebody else; set JOBQ_SCRATCH to another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _reachable_by_others(folder: Path) -> bool:
    existing = [p for p in (folder, *folder.parents) if p.exists()]
    return all(p.stat().st_mode & stat.S_IXOTH for p in existing)


def private_dir(path: Path) -> Path:
    """A fresh folder that belongs to the server user and to nobody else."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, mode=0o700)
    give_to_server_user(path)
    return path


def give_to_server_user(path: Path) -> None:
    if is_root():
        user = server_user()
        os.chown(path, user.pw_uid, user.pw_gid)


@contextlib.contextmanager
def only_one(name: str) -> Iterator[None]:
    """Keeps two scripts started at the same time from setting up the same thing twice."""
    with open(scratch() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None,
        quiet: bool = False) -> str:
    """Runs a command as the caller; its output is returned when quiet, else shown."""
    done = subprocess.run([str(c) for c in command], env=env, cwd=cwd, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE if quiet else None, stderr=subprocess.STDOUT if quiet else None)
    if done.returncode != 0:
        shown = " ".join(str(c) for c in command)
        raise SetupError(f"exit code {done.returncode} from: {shown}\n{done.stdout or ''}".rstrip())
    return done.stdout or ""


def as_server_user(env: Mapping[str, str] | None = None) -> dict:
    """Keyword arguments for subprocess that make the child run as the server user."""
    child_env = dict(os.environ if env is None else env)
    if not is_root():
        return {"env": child_env}
    user = server_user()
    child_env.update(HOME=str(scratch()), USER=user.pw_name, LOGNAME=user.pw_name)
    return {"env": child_env, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": scratch()}


def apt_install(*packages: str) -> None:
    """Installs Debian packages, asking nothing; needs root or sudo without a password."""
    if shutil.which("apt-get") is None:
        raise SetupError(f"please install {', '.join(packages)} (there is no apt-get here)")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    sudo = [] if is_root() else ["sudo", "-n", *(f"{k}={v}" for k, v in env.items())]
    if sudo and shutil.which("sudo") is None:
        raise SetupError(f"please install as root: apt-get install {' '.join(packages)}")
    say(f"installing Debian packages: {' '.join(packages)}")
    apt_update()
    # What is there already stays at its version.
    run([*sudo, "apt-get", "install", "-y", "-q", "--no-install-recommends", "--no-upgrade", *packages],
        env={**os.environ, **env}, quiet=True)


def apt_update() -> None:
    """Refreshes the package lists once a run; without root the lists that are there must do."""
    if os.environ.get("JOBQ_APT_UPDATED") == "1":
        return
    sudo = [] if is_root() else ["sudo", "-n"]
    with contextlib.suppress(SetupError, FileNotFoundError):
        run([*sudo, "apt-get", "update", "-q"], quiet=True)
    os.environ["JOBQ_APT_UPDATED"] = "1"


def say(message: str) -> None:
    print(f"jobq: {message}", file=sys.stderr, flush=True)


def prepare_process() -> None:
    """To be called first by every script: readable files whatever the caller's umask, and a
    SIGTERM that unwinds, so that servers are stopped on the way out."""
    os.umask(0o022)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
