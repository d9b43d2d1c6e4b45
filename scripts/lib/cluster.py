"""A private throw-away Postgres server on a unix socket of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from machine import SetupError, as_server_user, give_to_server_user, private_dir, say, scratch
from toolchain import Install

SUPERUSER = "postgres"


class SqlError(Exception):
    """psql failed; the message is what it wrote to stderr, SQLSTATE included."""


class Cluster:
    """`with Cluster(install, "demo", settings={...}) as c:` starts it; the end of the block stops
    it and removes its files, whatever happened. Only what this object started is ever stopped.

    Reached through the unix socket (trusted: its folder is closed to other users). With
    `tcp=True` it also listens on a free loopback port, with a random password.
    """

    def __init__(self, install: Install, name: str, *, settings: Mapping[str, str] | None = None,
                 tcp: bool = False, keep: bool = False, initdb_options: Sequence[str] = ()) -> None:
        self.install = install
        self.keep = keep
        self.folder = private_dir(scratch() / "clusters" / f"{name}-{install.major}-{os.getpid()}")
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        # Socket paths may be at most 107 bytes long, wherever the checkout is.
        self.socket_dir = Path(tempfile.mkdtemp(prefix="jobq-", dir="/tmp"))
        give_to_server_user(self.socket_dir)
        self.port = _free_port() if tcp else 5432
        self.tcp = tcp
        self.password = secrets.token_hex(16)
        self.settings = {"listen_addresses": "127.0.0.1" if tcp else "", "port": str(self.port),
                         "unix_socket_directories": str(self.socket_dir), "logging_collector": "off",
                         "log_line_prefix": "%m [%p] %b %e ", "max_prepared_transactions": "10",
                         **(settings or {})}
        self._initdb(initdb_options)

    def _initdb(self, options: Sequence[str]) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password + "\n")
        give_to_server_user(secret)
        secret.chmod(0o600)
        self.program("initdb", "-D", self.data, "-U", SUPERUSER, "--pwfile", secret, "--auth-local=trust",
                     "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", *options)
        self.configure({})

    def configure(self, settings: Mapping[str, str]) -> None:
        """Changes settings; they take effect at the next start or `reload()`."""
        self.settings.update(settings)
        quoted = ((key, value.replace("'", "''")) for key, value in self.settings.items())
        path = self.data / "jobq.conf"
        path.write_text("".join(f"{key} = '{value}'\n" for key, value in quoted))
        give_to_server_user(path)
        main = self.data / "postgresql.conf"
        if "include 'jobq.conf'" not in main.read_text():
            with main.open("a") as conf:
                conf.write("\ninclude 'jobq.conf'\n")

    def start(self) -> Cluster:
        # After a kill, the old server's children need a moment to notice and leave.
        deadline = time.monotonic() + 20
        while True:
            try:
                self.program("pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "60", "start")
                return self
            except SetupError as error:
                if "shared memory" not in self.log_text()[-2000:] or time.monotonic() > deadline:
                    raise SetupError(f"{error}\n{self.log_text()[-4000:]}") from None
                time.sleep(0.1)

    def stop(self, mode: str = "fast") -> None:
        if self.pid() is not None:
            self.program("pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", "60", "stop")

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def reload(self) -> None:
        self.program("pg_ctl", "-D", self.data, "reload")

    def kill(self) -> None:
        """The postmaster dies as in a power cut; `start()` then goes through crash recovery."""
        pid = self.pid()
        if pid is None:
            raise SetupError("the server is not running")
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)

    def pid(self) -> int | None:
        """The postmaster's process id, if it runs."""
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            return pid if _alive(pid) else None
        return None

    def remove(self) -> None:
        """Stops the server and deletes its files."""
        try:
            self.stop("fast")
        except SetupError:
            say(f"fast shutdown failed, stopping {self.data} at once")
            self.stop("immediate")
        finally:
            shutil.rmtree(self.socket_dir, ignore_errors=True)
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Cluster:
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, *_: object) -> None:
        if not self.keep:
            self.remove()

    def conninfo(self, dbname: str = "postgres", user: str = SUPERUSER) -> str:
        return f"host={self.socket_dir} port={self.port} user={user} dbname={dbname}"

    def tcp_url(self, dbname: str = "postgres") -> str:
        """For drivers that cannot use a unix socket; needs `tcp=True`."""
        if not self.tcp:
            raise SetupError("this cluster listens on its unix socket only")
        return f"postgresql://{SUPERUSER}:{self.password}@127.0.0.1:{self.port}/{dbname}"

    def env(self, dbname: str = "postgres", user: str = SUPERUSER) -> dict[str, str]:
        """The environment in which libpq programs connect here and nowhere else."""
        others = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        return {**others, "PGHOST": str(self.socket_dir), "PGPORT": str(self.port), "PGUSER": user,
                "PGDATABASE": dbname, "PATH": f"{self.install.bindir}{os.pathsep}{os.environ['PATH']}"}

    def psql(self, sql: str, dbname: str = "postgres", user: str = SUPERUSER) -> str:
        """Runs SQL, stops at the first error, returns unaligned rows with `|` between columns."""
        done = subprocess.run([self.install.program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1",
                               "-v", "VERBOSITY=verbose", "-f", "-"],
                              input=sql, env=self.env(dbname, user), text=True, capture_output=True)
        if done.returncode != 0:
            raise SqlError(done.stderr.strip())
        return done.stdout.rstrip("\n")

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def program(self, name: str, *arguments: str | Path) -> str:
        """Runs one of the installation's programs as the user the server runs as."""
        # Output goes to a file: a pipe would stay open in the server that pg_ctl leaves behind.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run([self.install.program(name), *map(str, arguments)], text=True, stdout=output,
                                  stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **as_server_user(self.env()))
            output.seek(0)
            text = output.read()
        if done.returncode != 0:
            raise SetupError(f"{name} failed (exit code {done.returncode}):\n{text}".rstrip())
        return text


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
