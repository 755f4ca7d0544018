"""Runs the scripts of this folder: JavaScript clients against a server under test. Needs node and npm, which install what is locked."""

from __future__ import annotations

import fcntl
import json
import subprocess
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
INSTALL_TIMEOUT_S = 180
SCRIPT_TIMEOUT_S = 120


@cache
def installed() -> Path:
    """Install the locked packages, unless they are there; return the folder. Processes that test beside each other do it one at a time."""
    mark = FOLDER / "node_modules" / ".installed-from"
    with (FOLDER / "package-lock.json").open("rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        wanted = locked.read()
        if not (mark.exists() and mark.read_bytes() == wanted):
            _run(["npm", "ci", "--silent"], INSTALL_TIMEOUT_S)
            mark.write_bytes(wanted)
    return FOLDER


def run_script(name: str, *arguments: str) -> dict[str, object]:
    """Run a script; return the JSON object it prints."""
    installed()
    seen: dict[str, object] = json.loads(_run(["node", name, *arguments], SCRIPT_TIMEOUT_S))
    return seen


def check_types() -> str:
    """Return what the type checker says of the scripts; nothing when all is well."""
    installed()
    return _run(["npx", "--no-install", "tsc", "--noEmit"], SCRIPT_TIMEOUT_S)


def _run(command: list[str], timeout_s: float) -> str:
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout
