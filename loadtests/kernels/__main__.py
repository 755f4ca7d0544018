"""The kernels' static report: what their machine code and their work lists say, without a GPU.

    python -m loadtests.kernels --static [--triton DIR ...] [--out DIR]

prints four tables and writes `static.md` and `static.json`. Each DIR holds another Triton that compiles everything as well
(`pip install --no-deps --target DIR triton==VERSION`). On a GPU machine `loadtests/gpu/run.sh` sets measured times beside the bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.kernels.compiled import Compiled
from loadtests.kernels.memory_calls import MemoryPrediction, memory_calls, predict_memory
from loadtests.kernels.shapes import SHAPES
from loadtests.kernels.static import FP8_ITEMSIZE, H200, Prediction, predict

RESULTS = Path(__file__).parents[1] / "results" / "kernels"


@dataclass(frozen=True, slots=True)
class Predictions:
    """The bounds of all calls."""

    attention: list[Prediction]
    memory: list[MemoryPrediction]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.kernels", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--static", action="store_true", required=True, help="compile every shipped kernel and report what is in it")
    parser.add_argument("--triton", type=Path, nargs="*", default=[], help="directories of other Tritons to compile with as well")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory of the results (default: %(default)s)")
    options = parser.parse_args(arguments)
    compiled = [compiled for triton in (None, *options.triton) for compiled in compile_all(triton)]
    predictions = predict_all(compiled)
    text = report(compiled, predictions)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "static.md").write_text(text)
    contents = {"compiled": [asdict(one) for one in compiled]} | asdict(predictions)
    (options.out / "static.json").write_text(json.dumps(contents, indent=1) + "\n")
    print(text)
    return 0


def compile_all(triton: Path | None) -> list[Compiled]:
    """Compile in a process whose Triton does not interpret, and return what it found, one a kernel and generation.

    ``triton`` is the directory of the one that compiles, if not this environment's own.
    """
    path = os.pathsep.join([*([] if triton is None else [str(triton.resolve())]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "loadtests.kernels.ahead_of_time"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [Compiled(**json.loads(line)) for line in done.stdout.splitlines()]


def predict_all(compiled: list[Compiled]) -> Predictions:
    """Predict the bound of every call: attention from its work lists, the rest from its bytes and the first Triton's code."""
    first = compiled[0].triton
    occupancy = {
        one.name.removesuffix(" bf16"): one.occupancy for one in compiled if one.triton == first and one.capability == H200.generation.value
    }
    attention = [prediction for shape in SHAPES for prediction in predict(shape, H200)]
    paged = [shape for shape in SHAPES if any(row.past_len for row in shape.rows)]
    attention += [prediction for shape in paged for prediction in predict(shape, H200, FP8_ITEMSIZE)]
    return Predictions(attention, [predict_memory(call, occupancy, H200) for call in memory_calls(H200)])


def report(compiled: list[Compiled], predictions: Predictions) -> str:
    """Write all tables in Markdown."""
    first = [one for one in compiled if one.triton == compiled[0].triton]
    card = f"{H200.name} ({H200.matmul_tflops:g} TFLOP/s, {H200.bandwidth_tbps:g} TB/s, {H200.multiprocessors} processors)"
    return "\n".join(
        [
            "# Kernels: what the compiled code and the work lists say",
            "",
            "Written by `python -m loadtests.kernels --static`; nothing here was run on a GPU.",
            "",
            *_table_of([asdict(one) | {"occupancy": one.occupancy} for one in first]),
            "",
            "Registers a thread under each Triton, and spills where there are any:",
            "",
            *_table_of(_beside(compiled)),
            "",
            f"Attention on {card}, tiles for one key head, times for all:",
            "",
            *_table_of([asdict(one) for one in predictions.attention]),
            "",
            f"Kernels without products on {card}, bound by their bytes:",
            "",
            *_table_of([asdict(one) for one in predictions.memory]),
            "",
        ]
    )


def _beside(compiled: list[Compiled]) -> list[dict[str, object]]:
    """Set what each Triton made of a kernel side by side."""
    rows: dict[tuple[str, int], dict[str, object]] = {}
    for one in compiled:
        row = rows.setdefault((one.name, one.capability), {"name": one.name, "capability": one.capability})
        row[f"Triton {one.triton}"] = f"{one.registers}" + (f", {one.spills} spills" if one.spills else "")
    return list(rows.values())


def _table_of(rows: list[dict[str, object]]) -> list[str]:
    return table(list(rows[0]), [[_cell(row[name]) for name in rows[0]] for row in rows])


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table's lines."""
    lines = ["| " + " | ".join(cells) + " |" for cells in ([name.replace("_", " ") for name in heads], *rows)]
    return [lines[0], "|" + "---|" * len(heads), *lines[1:]]


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items() if count) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
