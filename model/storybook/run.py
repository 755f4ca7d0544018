"""One training stage on disk: its checkpoint, its log and its plot. A stage can stop after any step and go on from its checkpoint.

DIR/<stage>/checkpoint.safetensors   weights ``model.*`` and optimiser state
DIR/<stage>/state.json               step, seconds trained, settings, machine
DIR/<stage>/log.jsonl                one line a report
DIR/<stage>/plot.svg                 the curves of the log
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model.storybook.optimiser import Optimiser
from model.storybook.plots import Curve, write_plot


@dataclass(slots=True)
class Run:
    """The directory of a stage, and the clock that counts its training seconds over all its sittings."""

    directory: Path
    num_steps: int
    command: str
    trained_s: float = 0.0
    _since: float = field(default_factory=time.monotonic)
    _reports: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / "log.jsonl"
        if log.exists():
            self._reports = [json.loads(line) for line in log.read_text().splitlines()]

    @property
    def seconds(self) -> float:
        """Seconds of training so far, earlier sittings included."""
        return self.trained_s + time.monotonic() - self._since

    def load(self, optimiser: Optimiser) -> None:
        """Take up the stage's checkpoint, if there is one: parameters, optimiser state and step."""
        path = self.directory / "checkpoint.safetensors"
        if not path.exists():
            return
        state = json.loads((self.directory / "state.json").read_text())
        tensors = load_file(path)
        with torch.no_grad():
            for name, parameter in optimiser.parameters.items():
                parameter.copy_(tensors[f"model.{name}"])
        optimiser.load_state({name: tensors[name] for name in optimiser.state}, int(state["step"]))
        self.trained_s = float(state["trained_s"])
        self._since = time.monotonic()
        self._reports = [report for report in self._reports if report["step"] <= state["step"]]

    def save(self, optimiser: Optimiser) -> None:
        """Write the checkpoint; a stop in the middle of writing leaves the last one whole."""
        tensors = {f"model.{name}": parameter.detach() for name, parameter in optimiser.parameters.items()}
        path = self.directory / "checkpoint.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in {**tensors, **optimiser.state}.items()}, f"{path}.part")
        state = {
            "step": optimiser.num_steps,
            "num_steps": self.num_steps,
            "trained_s": round(self.seconds, 1),
            "command": self.command,
            "machine": _machine(),
        }
        partial_state = self.directory / "state.json.part"
        partial_state.write_text(json.dumps(state, indent=1) + "\n")
        os.replace(f"{path}.part", path)
        os.replace(partial_state, self.directory / "state.json")

    def report(self, step: int, figures: dict[str, float]) -> None:
        """Add a line to the log and the progress line, and redraw the plot."""
        line = {"step": step, "seconds": round(self.seconds, 1), **{name: round(value, 5) for name, value in figures.items()}}
        self._reports.append(line)
        (self.directory / "log.jsonl").write_text("".join(json.dumps(report) + "\n" for report in self._reports))
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{self.directory.name} {step}/{self.num_steps}  {self.seconds:.0f} s  {shown}", file=sys.stderr, flush=True)
        write_plot(self.directory / "plot.svg", self.directory.name, self.curves())

    def curves(self) -> list[Curve]:
        """Every figure of the log over the steps."""
        names = sorted({name for report in self._reports for name in report} - {"step", "seconds"})
        return [Curve(name, [(report["step"], report[name]) for report in self._reports if name in report]) for name in names]


class Means:
    """Running means of named figures between two reports."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            total, number = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, number + 1)

    def take(self) -> dict[str, float]:
        means = {name: total / number for name, (total, number) in self._sums.items()}
        self._sums.clear()
        return means


def rate_factor(step: int, num_steps: int, num_warm: int, num_decay: int) -> float:
    """Learning-rate factor: up over ``num_warm`` steps, flat, straight down to 0 over the last ``num_decay``."""
    return max(0.0, min(1.0, (step + 1) / num_warm, (num_steps - step) / num_decay))


def _machine() -> str:
    """Name what the training ran on."""
    processor = f"{torch.get_num_threads()} cores of {torch.cpu.get_capabilities().get('cpu_name', platform.machine())}"
    return f"{torch.cuda.get_device_name() if torch.cuda.is_available() else processor}, torch {torch.__version__}"
