"""The door: ``plait`` and ``python -m server`` come in here. What each command does is in `server.cli`."""

from __future__ import annotations

import sys

from server.cli.commands import run


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
