"""Charts of a few series in SVG, lines or points, drawn without a plotting library: panels side by side, one legend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT, MARGIN, TOP = 360, 250, 46, 52
COLOURS = ("#1b7f5c", "#c2572b", "#4b5fb5", "#a63d78", "#8a7a1f", "#555555", "#2a9db0")
NUM_TICKS = 4
MAX_POINTS = 200


@dataclass(frozen=True, slots=True)
class Series:
    """A named line, its points in order of x; or with ``is_scatter`` the points alone."""

    name: str
    points: list[tuple[float, float]]
    is_scatter: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart. With ``log_x``, points at x <= 0 are left out, with ``log_y`` those at y <= 0; ``y_max`` None follows the values."""

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    log_x: bool = False
    y_max: float | None = None
    log_y: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values on a range of pixels."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, at = (math.log(v) for v in (self.low, self.high, value)) if self.is_log else (self.low, self.high, value)
        return self.start + (at - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return a few values spread evenly over the axis."""
        shares = [index / NUM_TICKS for index in range(NUM_TICKS + 1)]
        if self.is_log:
            return [self.low * (self.high / self.low) ** share for share in shares]
        return [self.low + (self.high - self.low) * share for share in shares]


def distribution(name: str, values: list[float]) -> Series:
    """Return the cumulative distribution of ``values``: for each, the share that is not above it."""
    ordered = sorted(values)
    stride = max(1, len(ordered) // MAX_POINTS)
    kept = [*range(0, len(ordered), stride), len(ordered) - 1] if ordered else []
    return Series(name, [(ordered[index], (index + 1) / len(ordered)) for index in kept])


def write_chart(path: Path, title: str, panels: list[Panel]) -> None:
    """Write ``panels`` side by side to an SVG file; equal names have equal colours in all of them."""
    names = list(dict.fromkeys(series.name for panel in panels for series in panel.series))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    width, height = WIDTH * len(panels), HEIGHT + TOP
    drawn = "".join(_panel(panel, index * WIDTH, colours) for index, panel in enumerate(panels))
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="10">'
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="20" font-size="14">{escape(title)}</text>'
        f"{_legend(colours)}{drawn}</svg>\n"
    )


def _legend(colours: dict[str, str]) -> str:
    entries = []
    left = 10
    for name, colour in colours.items():
        entries.append(
            f'<rect x="{left}" y="30" width="10" height="10" fill="{colour}"/><text x="{left + 14}" y="39">{escape(name)}</text>'
        )
        left += 30 + 6 * len(name)
    return "".join(entries)


def _panel(panel: Panel, left: int, colours: dict[str, str]) -> str:
    points = [[(x, y) for x, y in series.points if (x > 0 or not panel.log_x) and (y > 0 or not panel.log_y)] for series in panel.series]
    xs, ys = [x for line in points for x, _ in line], [y for line in points for _, y in line]
    if not xs:
        return ""
    across = Axis(min(xs), max(xs), left + MARGIN, left + WIDTH - 14, panel.log_x)
    low, high = min(ys) if panel.log_y else min(0.0, *ys), max(ys) if panel.y_max is None else panel.y_max
    up = Axis(low, high, TOP + HEIGHT - MARGIN, TOP + 24, panel.log_y)
    drawn = ""
    for series, shown in zip(panel.series, points, strict=True):
        places = [(across.place(x), up.place(y)) for x, y in shown]
        drawn += (_dots if series.is_scatter else _line)(places, colours[series.name])
    return _frame(panel, across, up) + drawn


def _line(places: list[tuple[float, float]], colour: str) -> str:
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="1.6"/>'


def _dots(places: list[tuple[float, float]], colour: str) -> str:
    return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}" fill-opacity="0.8"/>' for x, y in places)


def _frame(panel: Panel, across: Axis, up: Axis) -> str:
    grid = "".join(
        f'<line x1="{across.start}" x2="{across.end}" y1="{up.place(y):.1f}" y2="{up.place(y):.1f}" stroke="#ddd"/>'
        f'<text x="{across.start - 4}" y="{up.place(y) + 3:.1f}" text-anchor="end">{y:.3g}</text>'
        for y in up.ticks()
    )
    feet = "".join(f'<text x="{across.place(x):.1f}" y="{up.start + 14}" text-anchor="middle">{x:.3g}</text>' for x in across.ticks())
    middle = (across.start + across.end) / 2
    return (
        f'{grid}{feet}<text x="{across.start}" y="{up.end - 8}" font-size="11">{escape(panel.title)}</text>'
        f'<text x="{middle}" y="{up.start + 30}" text-anchor="middle">{escape(panel.x_label)}; vertical: {escape(panel.y_label)}</text>'
    )
