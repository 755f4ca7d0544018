"""Whether the directory for what is computed once can be written: the server starts without it, and computes again each time."""

from __future__ import annotations

import tempfile
from pathlib import Path

REMEDY = "--cache-dir DIR, with a directory that can be written"


def why_not_writable(directory: Path) -> str | None:
    """Make the directory where it is missing and write into it; return what is wrong where that cannot be done."""
    path = directory.expanduser()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return None
    except OSError as error:
        return f"cache_dir {path} cannot be written ({error.strerror}): what is worth keeping is computed anew at every start"
