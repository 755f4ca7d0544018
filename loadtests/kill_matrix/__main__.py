"""``python -m loadtests.kill_matrix``: every fault in every phase, through a real fleet; prints the matrix, fails if anything was lost."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtests.kill_matrix.faults import FAULTS, PHASES
from loadtests.kill_matrix.fleet import FleetPlan, random_model, running_fleet
from loadtests.kill_matrix.matrix import Cell, run_cell, table, undisturbed

SETTINGS = ("--keep-alive-s", "1", "--stall-after-s", "3", "--num-threads", "1", "--max-running", "3", "--num-pages", "2000")
MODEL_NAME = ("--model-name", "plait")


def main() -> None:
    """Run the matrix, or a part of it."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.kill_matrix", description=__doc__)
    parser.add_argument("--faults", help="comma-separated; default: all")
    parser.add_argument("--phases", help="comma-separated; default: all")
    parser.add_argument("--streams", type=int, default=12)
    parser.add_argument("--model", type=Path, help="model directory; without one a small random model")
    options = parser.parse_args()
    faults = options.faults.split(",") if options.faults else [fault.name for fault in FAULTS]
    phases = options.phases.split(",") if options.phases else list(PHASES)
    cells = asyncio.run(run(faults, phases, options.streams, options.model))
    print(table(cells))
    sys.exit(not all(cell.is_clean for cell in cells))


async def run(faults: Sequence[str], phases: Sequence[str], num_streams: int, model: Path | None) -> list[Cell]:
    """Run the cells of some faults and phases on one fleet."""
    with tempfile.TemporaryDirectory(prefix="plait-kill-") as directory:
        path = model or random_model(Path(directory) / "plait")
        plan = FleetPlan(3, path, (*SETTINGS, *MODEL_NAME))
        with running_fleet(Path(directory) / "fleet", plan) as fleet:
            expected = await undisturbed(fleet, num_streams)
            cells: list[Cell] = []
            for fault in [fault for fault in FAULTS if fault.name in faults]:
                for phase in phases:
                    cells.append(await run_cell(fleet, fault, phase, expected))
                    print(table(cells[-1:]).splitlines()[1], file=sys.stderr, flush=True)
            return cells


if __name__ == "__main__":
    main()
