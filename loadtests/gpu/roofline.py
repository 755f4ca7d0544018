"""Draws what a GPU run has measured under the roofs it has measured: ``roofline.svg`` in DIR, from the numbers in DIR's ``gpu.tar.gz``.

    python -m loadtests.gpu.roofline DIR

Across is how many operations a kernel does for each byte it must move, up how many it does in a second; both are logarithmic. A roof rises
with the bandwidth, of a large copy or a large read, whichever was faster, up to the rate of a large product. Needs no GPU and no PyTorch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

from loadtests.charts import Panel, Series, write_chart

Line = dict[str, str | float]
Point = tuple[float, float]

MATMUL, COPY, READ = "large matmul", "large copy", "large read"
"""What the ceilings are called in the tables."""
FP8_SPEEDUP = 2.0
"""Of a product of 8-bit floats over one of bfloat16, on every generation that has both."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.gpu.roofline")
    parser.add_argument("directory", type=Path, help="where gpu.tar.gz lies")
    directory: Path = parser.parse_args(arguments).directory
    parts = read_parts(directory / "gpu.tar.gz")
    panels = panels_of(parts)
    if not panels:
        print("no roofline: the ceilings or what stands below them were not measured")
        return 1
    write_chart(directory / "roofline.svg", "Rates beside the measured roofs", panels)
    return 0


def read_parts(archive: Path) -> dict[str, list[Line]]:
    """Return the lines of every part by its name."""
    parts: dict[str, list[Line]] = {}
    with tarfile.open(archive) as files:
        for member in files.getmembers():
            file = files.extractfile(member) if member.name.endswith(".json") else None
            if file is not None:
                parts[Path(member.name).stem] = json.load(file)["lines"]
    return parts


def panels_of(parts: dict[str, list[Line]]) -> list[Panel]:
    """Return a panel for the products and one for attention, as far as they and the ceilings were measured."""
    products, attention = parts.get("products", []), parts.get("attention", [])
    ceilings = {str(line["what"]): float(line["value"]) for line in products if "what" in line and "value" in line}
    groups = {"matrix products": by_kernel(products), "attention": with_fastest_peer(by_kernel(attention))}
    if not {MATMUL, COPY, READ} <= ceilings.keys():
        return []
    return [panel(title, points, ceilings) for title, points in groups.items() if points]


def by_kernel(lines: Iterable[Line]) -> dict[str, list[Point]]:
    """Return each kernel's points: operations a byte, and TFLOP/s."""
    points: dict[str, list[Point]] = {}
    for line in lines:
        if {"FLOP/B", "TFLOP/s", "kernel"} <= line.keys():
            points.setdefault(str(line["kernel"]), []).append((float(line["FLOP/B"]), float(line["TFLOP/s"])))
    return points


def with_fastest_peer(points: dict[str, list[Point]]) -> dict[str, list[Point]]:
    """Put the fastest peer of each shape in the place of all peers; a shape's operations a byte are the same for each."""
    ours = {name: shapes for name, shapes in points.items() if name.startswith("plait")}
    fastest: dict[float, float] = {}
    for name, shapes in points.items():
        if name not in ours:
            for intensity, rate in shapes:
                fastest[intensity] = max(rate, fastest.get(intensity, 0.0))
    return ours | ({"fastest peer": sorted(fastest.items())} if fastest else {})


def panel(title: str, points: dict[str, list[Point]], ceilings: dict[str, float]) -> Panel:
    """Return the points of each kernel below the roof of bfloat16, and below that of 8-bit floats where it has any."""
    bandwidth, matmul = max(ceilings[COPY], ceilings[READ]), ceilings[MATMUL]
    across = [intensity for shapes in points.values() for intensity, _ in shapes]
    roofs = {"roof": matmul} | ({"roof of 8-bit floats": FP8_SPEEDUP * matmul} if "8-bit floats" in points else {})
    ends = min(across), max(*across, 2.0 * max(roofs.values()) / bandwidth)
    lines = [Series(name, roof_points(bandwidth, top, ends)) for name, top in roofs.items()]
    kernels = [Series(name, sorted(shapes), is_scatter=True) for name, shapes in points.items()]
    return Panel(title, "FLOP/B", "TFLOP/s", [*lines, *kernels], log_x=True, log_y=True)


def roof_points(bandwidth: float, top: float, across: tuple[float, float]) -> list[Point]:
    """Return the corners of a roof in TFLOP/s, at TB/s and TFLOP/s, over a range of operations a byte."""
    first, last = across
    corners = [first, *([top / bandwidth] if first < top / bandwidth else []), last]
    return [(intensity, min(top, bandwidth * intensity)) for intensity in corners]


if __name__ == "__main__":
    sys.exit(main())
