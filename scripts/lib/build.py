"""Building the extension and putting it into a private Postgres installation."""

from __future__ import annotations

import os
from collections.abc import Sequence

from machine import REPO, only_one, run, say
from toolchain import Install, cargo_env, cargo_pgrx, postgres


def install(major: int, profile: str = "release", features: Sequence[str] = (), quiet: bool = True) -> Install:
    """Compiles jobq for this Postgres and installs it there. Always asks cargo, which does
    nothing when nothing has changed. `profile`: 'release' or 'dev'."""
    server = postgres(major)
    # scripts/test installs once, and suites that run side by side must not do so again.
    if str(major) in os.environ.get("JOBQ_INSTALLED", "").split():
        return server
    command = [cargo_pgrx(), "pgrx", "install", "--pg-config", server.pg_config, "--no-default-features",
               "--features", " ".join([f"pg{major}", *features])]
    if profile == "release":
        command.append("--release")
    say(f"building jobq for Postgres {major} ({profile})")
    with only_one("build"):
        run(command, env=cargo_env(server), cwd=REPO, quiet=quiet)
    return server

