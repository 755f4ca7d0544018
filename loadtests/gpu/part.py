"""What every part of the GPU run shares: its options, its results as JSON and as a table."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from server.engine.loop import is_device_lost
from server.engine.options import LEAST_FP8_CAPABILITY

Line = dict[str, str | float]


@dataclass(frozen=True, slots=True)
class Options:
    """Where a part runs, whether in miniature, and where its results go. ``after``: so many measurements are behind it already."""

    device: torch.device
    is_tiny: bool
    out: Path
    after: int = 0

    def cache_dir(self, model: str) -> str:
        """Return where what is computed once for ``model`` is kept for the parts that follow."""
        return str(self.out / "cache" / model)


def read_options(program: str, arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog=f"python -m loadtests.gpu.{program}")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="shapes so small that a CPU does them: a rehearsal, its times mean nothing")
    parser.add_argument("--out", type=Path, required=True, help="directory of the results")
    parser.add_argument("--after", type=int, default=0, help="leave out so many measurements and keep the lines already written")
    options = parser.parse_args(arguments)
    return Options(torch.device(options.device), options.tiny, options.out, options.after)


def has_fp8(device: torch.device) -> bool:
    """Tell whether ``device`` has 8-bit floats; a CPU that stands in for one has."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= LEAST_FP8_CAPABILITY


def is_lost(error: Exception, device: torch.device) -> bool:
    """Tell whether ``device`` does nothing any more in this process after ``error``.

    A GPU is asked, since the message does not say it: what cuBLAS merely has no product for is called a "CUDA error" too, and what Triton
    meets is not. Of a CPU, which stands in for one, the message decides.
    """
    if device.type != "cuda":
        return is_device_lost(error)
    try:
        torch.ones(1, device=device).sum().item()
    except RuntimeError:
        return True
    return False


def first_line(error: Exception) -> str:
    """Return what a table says of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]


def begin_anew(after: int) -> None:
    """Run the same module with the same options in this one's place, in a fresh process but for its number, and only what follows ``after``
    measurements. Does not return."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the driver's files among them: what it holds for this process goes with them
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "--after", str(after)])


class Report:
    """The lines of one part, written anew after each: what a later fault or the part's limit ends is kept up to there.

    Where a fault has cost the device, all that follows would fail too: the part then begins anew behind the measurement it came from.
    Since that number only grows, this happens no more often than there are measurements.
    """

    def __init__(self, options: Options, name: str, begin_anew: Callable[[int], None] = begin_anew) -> None:
        self._options = options
        self._name = name
        self._begin_anew = begin_anew
        self._num_measured = 0
        self.lines: list[Line] = written(options, name) if options.after else []

    @property
    def has_failed(self) -> bool:
        """Whether a measurement has raised."""
        return any("raised" in line for line in self.lines)

    def add(self, what: str, measure: Callable[[], Line | Iterable[Line]]) -> None:
        """Take in what ``measure`` brings, one line or several; a fault becomes a line and costs no other."""
        self._num_measured += 1
        if self._num_measured <= self._options.after:
            return
        has_lost = False
        try:
            measured = measure()
            self.keep([measured] if isinstance(measured, dict) else measured)
        except Exception as error:
            traceback.print_exc()
            self.keep([{"what": what, "raised": first_line(error)}])
            has_lost = is_lost(error, self._options.device)
        if has_lost:
            print(f"{self._name}: the device is lost to this process; what follows {what} is measured in a new one", flush=True)
            self._begin_anew(self._num_measured)

    def keep(self, lines: Iterable[Line]) -> None:
        """Take in lines one by one, as they come; another part's measurement may bring some besides its own."""
        for line in lines:
            self.lines.append(line)
            print(f"{self._name}: " + ", ".join(f"{column} {_cell(value)}" for column, value in line.items()), flush=True)
            write(self._options, self._name, self.lines)


def write(options: Options, name: str, lines: list[Line]) -> None:
    """Write ``name.json`` and a table, ``name.md``; a line may lack what could not be measured."""
    columns = list(dict.fromkeys(column for line in lines for column in line))
    rows = [columns, ["---"] * len(columns), *([_cell(line.get(column, "")) for column in columns] for line in lines)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    device = _device_name(options.device)
    (options.out / f"{name}.json").write_text(json.dumps({"device": device, "torch": torch.__version__, "lines": lines}, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(f"{name} on {device}\n\n{table}\n")


def written(options: Options, name: str) -> list[Line]:
    """Return the lines that `write` has written."""
    path = options.out / f"{name}.json"
    lines: list[Line] = json.loads(path.read_text())["lines"] if path.exists() else []
    return lines


@cache
def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _cell(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
