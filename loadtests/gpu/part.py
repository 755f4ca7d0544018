"""What every part of the GPU run shares: its options, its results as JSON and as a table."""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from server.engine.options import LEAST_FP8_CAPABILITY

Line = dict[str, str | float]


@dataclass(frozen=True, slots=True)
class Options:
    """Where a part runs, whether in miniature, and where its results go."""

    device: torch.device
    is_tiny: bool
    out: Path


def read_options(program: str, arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog=f"python -m loadtests.gpu.{program}")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="shapes so small that a CPU does them: a rehearsal, its times mean nothing")
    parser.add_argument("--out", type=Path, required=True, help="directory of the results")
    options = parser.parse_args(arguments)
    return Options(torch.device(options.device), options.tiny, options.out)


def has_fp8(device: torch.device) -> bool:
    """Tell whether ``device`` has 8-bit floats; a CPU that stands in for one has."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= LEAST_FP8_CAPABILITY


class Report:
    """The lines of one part, written anew after each measurement: what a later fault or the part's limit ends is kept up to there."""

    def __init__(self, options: Options, name: str) -> None:
        self._options = options
        self._name = name
        self.lines: list[Line] = []
        self.has_failed = False

    def add(self, what: str, measure: Callable[[], Line | Iterable[Line]]) -> None:
        """Take in what ``measure`` brings, one line or several; a fault becomes a line and costs no other."""
        before = len(self.lines)
        try:
            measured = measure()
            self.lines.extend([measured] if isinstance(measured, dict) else measured)
        except Exception as error:
            traceback.print_exc()
            self.lines.append({"what": what, "raised": f"{type(error).__name__}: {error}".splitlines()[0][:120]})
            self.has_failed = True
        for line in self.lines[before:]:
            print(f"{self._name}: " + ", ".join(f"{column} {_cell(value)}" for column, value in line.items()), flush=True)
        write(self._options, self._name, self.lines)


def write(options: Options, name: str, lines: list[Line]) -> None:
    """Write ``name.json`` and a table, ``name.md``; a line may lack what could not be measured."""
    columns = list(dict.fromkeys(column for line in lines for column in line))
    rows = [columns, ["---"] * len(columns), *([_cell(line.get(column, "")) for column in columns] for line in lines)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name(options.device) if options.device.type == "cuda" else "cpu"
    (options.out / f"{name}.json").write_text(json.dumps({"device": device, "torch": torch.__version__, "lines": lines}, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(f"{name} on {device}\n\n{table}\n")


def _cell(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
