"""How another process of this very installation is started."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ENTRY = "import sys; sys.path.append(sys.argv.pop(1)); from {module} import main; main()"
"""Imports this very installation: ``-m server`` would import whatever package of that name lies in the current directory."""


def python_command(module: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs ``main()`` of one of our modules, with ``arguments``, in another process."""
    root = Path(__file__).resolve().parents[2]
    return [sys.executable, "-P", "-c", ENTRY.format(module=module), str(root), *arguments]
