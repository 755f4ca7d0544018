"""``python -m loadtests.kill_matrix``: every fault in every phase, through a real fleet; prints the matrix, fails if anything was lost."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from loadtests.fleet.box import running_fleet
from loadtests.kill_matrix.durable_fleet import durable_plan
from loadtests.kill_matrix.faults import FAULTS, PHASES
from loadtests.kill_matrix.matrix import Cell, run_cell, table, undisturbed


def main() -> None:
    """Run the matrix, or a part of it."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.kill_matrix", description=__doc__)
    parser.add_argument("--faults", help="comma-separated; default: all")
    parser.add_argument("--phases", help="comma-separated; default: all")
    parser.add_argument("--streams", type=int, default=12)
    parser.add_argument("--model", type=Path, help="model directory; default: storybook")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the cells there too, over those of the same names")
    options = parser.parse_args()
    faults = options.faults.split(",") if options.faults else [fault.name for fault in FAULTS]
    phases = options.phases.split(",") if options.phases else list(PHASES)
    cells = asyncio.run(run(faults, phases, options.streams, options.model))
    print(table(cells))
    if options.json:
        _write(options.json, cells)
    sys.exit(not all(cell.is_clean for cell in cells))


def _write(path: Path, cells: Sequence[Cell]) -> None:
    """Add cells to those of a file: a matrix may be run fault by fault."""
    written = [Cell(**cell) for cell in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
    by_name = {(cell.fault, cell.phase): cell for cell in [*written, *cells]}
    path.write_text(json.dumps([asdict(cell) for cell in by_name.values()], indent=1) + "\n", encoding="utf-8")


async def run(faults: Sequence[str], phases: Sequence[str], num_streams: int, model: Path | None) -> list[Cell]:
    """Run the cells of some faults and phases on one fleet."""
    with (
        tempfile.TemporaryDirectory(prefix="plait-kill-") as directory,
        running_fleet(Path(directory), durable_plan(3, model)) as fleet,
    ):
        expected = await undisturbed(fleet, num_streams)
        cells: list[Cell] = []
        for fault in [fault for fault in FAULTS if fault.name in faults]:
            for phase in phases:
                cells.append(await run_cell(fleet, fault, phase, expected))
                print(table(cells[-1:]).splitlines()[1], file=sys.stderr, flush=True)
        return cells


if __name__ == "__main__":
    main()
