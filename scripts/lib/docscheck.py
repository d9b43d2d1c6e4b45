"""docs/reference must name everything users can call, see or set, and nothing that is not there."""

from __future__ import annotations

import re

from cluster import Cluster
from machine import REPO

REFERENCE = REPO / "docs" / "reference"

FUNCTIONS = """
    SELECT DISTINCT p.proname FROM pg_proc p
    WHERE p.pronamespace = 'jobq'::regnamespace AND p.proname NOT LIKE E'\\\\_%' ORDER BY 1"""
RELATIONS = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind IN ('v', 'r', 'p', 'm', 'c')
      AND c.relname NOT LIKE E'\\\\_%' ORDER BY 1"""
COLUMNS = """
    SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind IN ('v', 'c') AND a.attnum > 0
      AND NOT a.attisdropped AND c.relname NOT LIKE E'\\\\_%' ORDER BY 1"""
SETTINGS = "SELECT name FROM pg_settings WHERE name LIKE 'jobq.%' ORDER BY 1"


def problems(server: Cluster) -> list[str]:
    """One sentence for each thing missing on either side."""
    pages = {path.name: path.read_text() for path in sorted(REFERENCE.glob("**/*.md"))}
    if not pages:
        return ["docs/reference has no pages"]
    text = "\n".join(pages.values())
    server.psql("CREATE EXTENSION jobq")
    functions = _rows(server, FUNCTIONS)
    relations = _rows(server, RELATIONS)
    settings = _rows(server, SETTINGS)
    known = functions | relations | {name.removeprefix("jobq.") for name in settings}
    found = []
    found += [f"function jobq.{name} is in no page" for name in sorted(functions) if not _has_call(text, name)]
    found += [f"view or type jobq.{name} is in no page" for name in sorted(relations) if not _has_word(text, name)]
    found += [f"setting {name} is in no page" for name in sorted(settings) if name not in text]
    found += [f"column {name} is in no page" for name in sorted(_rows(server, COLUMNS))
              if not _has_word(text, name.split(".")[1])]
    # And back: what the pages name with its schema must exist.
    for page, content in pages.items():
        named = set(re.findall(r"\bjobq\.([a-z][a-z0-9_]*)", content))
        found += [f"docs/reference/{page} names jobq.{name}, which does not exist" for name in sorted(named - known)]
    return found + _sqlstate_problems(text)


def _sqlstate_problems(text: str) -> list[str]:
    """The SQLSTATEs of the source's one error type against those of the error page."""
    raised = set(re.findall(r'b"([0-9A-Z]{5})"', (REPO / "src" / "error.rs").read_text()))
    if not raised:
        return ["src/error.rs names no SQLSTATE: has it moved?"]
    found = [f"SQLSTATE {code} is raised but in no page" for code in sorted(raised) if not _has_word(text, code)]
    # Other codes a page names may be the server's own.
    own = set(re.findall(r"\bJQ\d{3}\b", text))
    return found + [f"a page names {code}, which src/error.rs never raises" for code in sorted(own - raised)]


def _rows(server: Cluster, query: str) -> set[str]:
    return set(server.psql(query).split())


def _has_call(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\(", text) is not None


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


