"""The demo's input: the files of a real folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from machine import SetupError

FILES_ENOUGH = 500
FILE_BYTES_MAX = 8 << 20          # larger ones are no documents, and would make the demo slow
FILES_LOOKED_AT_MAX = 200_000     # somebody may give the root folder


@dataclass(frozen=True)
class Corpus:
    folder: Path
    sizes: dict[str, int]         # of the chosen files, by path inside the folder
    found: int                    # how many there were to choose from
    left_out: int                 # too large, unreadable, or with a name that is no UTF-8

    def describe(self) -> str:
        chosen = f"{len(self.sizes):,} files ({sum(self.sizes.values()) / 1e6:,.1f} MB)"
        more = f" of {self.found:,}" if self.found > len(self.sizes) else ""
        left_out = f"; {self.left_out:,} left out: too large, unreadable or no regular file" if self.left_out else ""
        return f"{chosen}{more} in {self.folder}{left_out}"


def choose(folder: Path | None, count: int) -> Corpus:
    """At most `count` files, spread evenly over the folder so that they differ."""
    if folder is not None:
        if not folder.is_dir():
            raise SetupError(f"{folder} is not a folder")
        corpus = _read(folder.resolve(), count)
        if not corpus.sizes:
            raise SetupError(f"there are no files that can be used in {folder}")
        return corpus
    most = None
    for known in _known_folders():
        corpus = _read(known, count)
        if corpus.found >= min(count, FILES_ENOUGH):
            return corpus
        if most is None or corpus.found > most.found:
            most = corpus
    if most is None or not most.sizes:
        raise SetupError("no documents found on this machine: give a folder as argument")
    return most


def _known_folders() -> Iterator[Path]:
    """Real documents that a machine with Rust and Python has, the nicest first. The documentation is missing in a
    minimal Rust installation; the crates' sources are there once the extension has been built."""
    asked = subprocess.run(["rustc", "--print", "sysroot"], text=True, capture_output=True)
    if asked.returncode == 0:
        yield Path(asked.stdout.strip()) / "share" / "doc"
    yield Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo") / "registry" / "src"
    yield Path(sysconfig.get_paths()["stdlib"])


def _read(folder: Path, count: int) -> Corpus:
    found: list[tuple[str, int]] = []
    left_out = 0
    for path in _walk(str(folder)):
        if len(found) + left_out >= FILES_LOOKED_AT_MAX:
            break
        size = _usable_size(path)
        if size is None:
            left_out += 1
        else:
            found.append((os.path.relpath(path, folder), size))
    found.sort()
    step = max(len(found) / count, 1)
    chosen = [found[int(i * step)] for i in range(min(count, len(found)))]
    return Corpus(folder, dict(chosen), len(found), left_out)


def _walk(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        yield from (os.path.join(place, name) for name in files)


def _usable_size(path: str) -> int | None:
    try:
        path.encode()
        status = os.lstat(path)
    except (UnicodeEncodeError, OSError):
        return None
    usable = stat.S_ISREG(status.st_mode) and status.st_size <= FILE_BYTES_MAX and os.access(path, os.R_OK)
    return status.st_size if usable else None
