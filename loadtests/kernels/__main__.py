"""The kernels' static report: what their machine code and their work lists say, without a GPU.

    python -m loadtests.kernels --static [--out DIR]

prints two tables and writes `static.md` and `static.json`. On a GPU machine `loadtests/gpu/run.sh` sets measured times beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

from loadtests.kernels.shapes import SHAPES
from loadtests.kernels.static import H200, Prediction, predict

RESULTS = Path(__file__).parents[1] / "results" / "kernels"
Cell = str | int | float


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.kernels", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--static", action="store_true", required=True, help="compile every shipped kernel and report what is in it")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory of the results (default: %(default)s)")
    options = parser.parse_args(arguments)
    compiled = compile_all()
    predictions = [prediction for shape in SHAPES for prediction in predict(shape, H200)]
    text = report(compiled, predictions)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "static.md").write_text(text)
    contents = {"compiled": compiled, "predictions": [asdict(prediction) for prediction in predictions]}
    (options.out / "static.json").write_text(json.dumps(contents, indent=1) + "\n")
    print(text)
    return 0


def compile_all() -> list[dict[str, Cell]]:
    """Compile in a process whose Triton does not interpret, and return what it found, one row a kernel and generation."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, "-m", "loadtests.kernels.ahead_of_time"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def report(compiled: list[dict[str, Cell]], predictions: list[Prediction]) -> str:
    """Write both tables in Markdown."""
    heads = [field.name for field in fields(Prediction)]
    rows = [[_cell(asdict(prediction)[name]) for name in heads] for prediction in predictions]
    return "\n".join(
        [
            "# Kernels: what the compiled code and the work lists say",
            "",
            "Written by `python -m loadtests.kernels --static`; nothing here was run on a GPU.",
            "",
            *table(list(compiled[0]), [[_cell(row[name]) for name in row] for row in compiled]),
            "",
            f"Attention on {H200.name} ({H200.matmul_tflops:g} TFLOP/s, {H200.bandwidth_tbps:g} TB/s, {H200.multiprocessors} processors),"
            " tiles for one key head, times for all:",
            "",
            *table(heads, rows),
            "",
        ]
    )


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
