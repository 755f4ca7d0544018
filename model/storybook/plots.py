"""Small line charts in SVG, drawn without a plotting library: one panel a figure, over the training steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 300, 170, 34
COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Curve:
    name: str
    points: list[tuple[float, float]]


def write_plot(path: Path, title: str, curves: list[Curve]) -> None:
    """Write one panel a curve to an SVG file."""
    drawn = [curve for curve in curves if curve.points]
    rows = -(-len(drawn) // COLUMNS)
    width, height = COLUMNS * PANEL_WIDTH, rows * PANEL_HEIGHT + 30
    panels = "".join(
        _panel(curve, (index % COLUMNS) * PANEL_WIDTH, (index // COLUMNS) * PANEL_HEIGHT + 30) for index, curve in enumerate(drawn)
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="10">'
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="20" font-size="14">{title}</text>{panels}</svg>\n'
    )


def _panel(curve: Curve, left: float, top: float) -> str:
    xs, ys = [x for x, _ in curve.points], [y for _, y in curve.points]
    low, high = min(ys), max(ys)
    spread, first, last = high - low or 1.0, min(xs), max(xs)
    inner_width, inner_height = PANEL_WIDTH - 2 * MARGIN, PANEL_HEIGHT - 2 * MARGIN

    def place(x: float, y: float) -> str:
        across = (x - first) / ((last - first) or 1.0)
        return f"{left + MARGIN + across * inner_width:.1f},{top + MARGIN + (high - y) / spread * inner_height:.1f}"

    line = " ".join(place(x, y) for x, y in curve.points)
    return (
        f'<rect x="{left + MARGIN}" y="{top + MARGIN}" width="{inner_width}" height="{inner_height}" fill="none" stroke="#ccc"/>'
        f'<polyline points="{line}" fill="none" stroke="#2a5" stroke-width="1.3"/>'
        f'<text x="{left + MARGIN}" y="{top + MARGIN - 6}">{curve.name}: {ys[-1]:.4g}</text>'
        f'<text x="{left + 2}" y="{top + MARGIN + 8}">{high:.3g}</text>'
        f'<text x="{left + 2}" y="{top + PANEL_HEIGHT - MARGIN}">{low:.3g}</text>'
        f'<text x="{left + PANEL_WIDTH - MARGIN}" y="{top + PANEL_HEIGHT - MARGIN + 12}" text-anchor="end">{last:.0f}</text>'
    )
