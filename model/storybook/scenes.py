"""The storybook world: what a scene is, and how it is drawn.

A scene holds one to four things (shape, colour, size) on a grid of three columns and three rows, in front of one of three
backgrounds. It is drawn anti-aliased at 64 x 64, or at 96 x 64 when ``wide``. Things stand on fixed places two grid steps apart,
so they never touch: the world is as simple as the scoreboard needs, because a small model must learn it on a laptop.

        left    middle  right            a thing's centre lies on a corner of four 16-pixel latent tokens,
      +-------+-------+-------+          so the same thing looks the same to the model wherever it stands
 top  |       |       |       |
      +-------+-------+-------+
      |       |       |       |
      +-------+-------+-------+
 bottom       |  ~~~ ground ~~|
      +-------+-------+-------+
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import cache

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""``[height, width, 3]`` 8-bit RGB."""
Rgb = tuple[int, int, int]
Coverage = npt.NDArray[np.float32]
"""``[side, side]`` share of each pixel that a shape covers, 0 to 1."""

HEIGHT = 64
SQUARE_WIDTH = 64
WIDE_WIDTH = 96
ROW_CENTRES = (16, 32, 48)
SQUARE_COLUMN_CENTRES = (16, 32, 48)
WIDE_COLUMN_CENTRES = (16, 48, 80)
HORIZON = 52
"""First pixel row of the ground."""
SPRITE_SIDE = 28
"""Side of the square patch that holds a drawn shape, with a margin of at least one pixel."""
SUPERSAMPLING = 8
"""Samples per pixel and axis when a shape's coverage is measured."""
SHADING = 0.12
"""How much lighter a thing is at its top and darker at its bottom, as a share of its colour."""


class Shape(Enum):
    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    STAR = "star"
    HEART = "heart"


class Colour(Enum):
    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    BLUE = "blue"
    PURPLE = "purple"


class Size(Enum):
    BIG = "big"
    SMALL = "small"


class Background(Enum):
    DAY = "day"
    SUNSET = "sunset"
    NIGHT = "night"


RGB: dict[Colour, Rgb] = {
    Colour.RED: (222, 36, 48),
    Colour.ORANGE: (246, 132, 22),
    Colour.YELLOW: (246, 214, 30),
    Colour.GREEN: (40, 168, 72),
    Colour.BLUE: (46, 92, 228),
    Colour.PURPLE: (156, 58, 202),
}
RADIUS: dict[Size, float] = {Size.BIG: 12.0, Size.SMALL: 7.0}


@dataclass(frozen=True, slots=True)
class Palette:
    """A background: the sky's gradient from top to horizon, and the ground's colour."""

    zenith: Rgb
    horizon: Rgb
    ground: Rgb


PALETTES: dict[Background, Palette] = {
    Background.DAY: Palette(zenith=(176, 218, 246), horizon=(238, 247, 252), ground=(214, 200, 172)),
    Background.SUNSET: Palette(zenith=(232, 178, 196), horizon=(253, 226, 204), ground=(150, 116, 118)),
    Background.NIGHT: Palette(zenith=(18, 20, 50), horizon=(44, 48, 92), ground=(26, 30, 40)),
}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A cell of the grid: ``row`` 0 (top) to 2 (bottom), ``column`` 0 (left) to 2 (right)."""

    row: int
    column: int

    def is_clear_of(self, other: Place) -> bool:
        """Whether two big things on these places cannot touch."""
        return abs(self.row - other.row) == 2 or abs(self.column - other.column) == 2


MIDDLE = Place(1, 1)
PLACES = tuple(Place(row, column) for row in range(3) for column in range(3))


@dataclass(frozen=True, slots=True)
class Thing:
    """``tint``: drawn in this colour instead, one that the world has no word for; ``colour`` then means nothing and goes unsaid."""

    shape: Shape
    colour: Colour
    size: Size
    place: Place
    tint: Rgb | None = None

    @property
    def rgb(self) -> Rgb:
        return self.tint or RGB[self.colour]

    @property
    def kind(self) -> tuple[Shape, Colour, Size]:
        return (self.shape, self.colour, self.size)

    def at(self, place: Place) -> Thing:
        return replace(self, place=place)


@dataclass(frozen=True, slots=True)
class Scene:
    """``things`` are kept in reading order (top to bottom, left to right), so equal scenes compare equal."""

    things: tuple[Thing, ...]
    background: Background
    wide: bool = False

    @property
    def width(self) -> int:
        return WIDE_WIDTH if self.wide else SQUARE_WIDTH

    @property
    def is_count(self) -> bool:
        """Whether all things are of one kind and there are several."""
        return len(self.things) > 1 and len({(thing.kind, thing.tint) for thing in self.things}) == 1


def make_scene(things: list[Thing], background: Background, wide: bool = False) -> Scene:
    """Put things in reading order.

    Raises:
        ValueError: two things would touch.
    """
    ordered = tuple(sorted(things, key=lambda thing: thing.place))
    for index, thing in enumerate(ordered):
        for other in ordered[index + 1 :]:
            if not thing.place.is_clear_of(other.place):
                raise ValueError(f"things at {thing.place} and {other.place} would touch")
    return Scene(things=ordered, background=background, wide=wide)


def draw(scene: Scene) -> Pixels:
    """Draw a scene, ``[64, width, 3]`` 8-bit RGB."""
    return draw_in(scene, [thing.rgb for thing in scene.things])


def draw_in(scene: Scene, colours: list[Rgb]) -> Pixels:
    """Draw a scene with its things in any colours, ``[64, width, 3]`` 8-bit RGB."""
    canvas = draw_background(scene.background, scene.width).copy()
    for thing, rgb in zip(scene.things, colours, strict=True):
        y, x = centre_of(thing.place, scene.wide)
        top, left = y - SPRITE_SIDE // 2, x - SPRITE_SIDE // 2
        window = canvas[top : top + SPRITE_SIDE, left : left + SPRITE_SIDE]
        coverage = shape_coverage(thing.shape, thing.size)[..., None]
        window += coverage * (shaded(rgb, thing.size) - window)
    return np.rint(canvas).astype(np.uint8)


def centre_of(place: Place, wide: bool) -> tuple[int, int]:
    """Return (y, x) of a place's centre in pixels; pixel ``i`` spans ``[i, i + 1)``."""
    columns = WIDE_COLUMN_CENTRES if wide else SQUARE_COLUMN_CENTRES
    return ROW_CENTRES[place.row], columns[place.column]


@cache
def draw_background(background: Background, width: int) -> npt.NDArray[np.float32]:
    """Return the background alone, ``[64, width, 3]`` float32 in 0..255. Shared: do not change it."""
    palette = PALETTES[background]
    rows = np.empty((HEIGHT, 3), dtype=np.float32)
    share = np.linspace(0.0, 1.0, HORIZON, dtype=np.float32)[:, None]
    rows[:HORIZON] = np.array(palette.zenith) * (1 - share) + np.array(palette.horizon) * share
    rows[HORIZON:] = palette.ground
    return np.repeat(rows[:, None, :], width, axis=1)


@cache
def shape_coverage(shape: Shape, size: Size) -> Coverage:
    """Return how much of each pixel a shape covers, ``[28, 28]``, centred. Shared: do not change it."""
    steps = (np.arange(SPRITE_SIDE * SUPERSAMPLING, dtype=np.float32) + 0.5) / SUPERSAMPLING - SPRITE_SIDE / 2
    y, x = np.meshgrid(steps / RADIUS[size], steps / RADIUS[size], indexing="ij")
    samples = _inside(shape, x, y).reshape(SPRITE_SIDE, SUPERSAMPLING, SPRITE_SIDE, SUPERSAMPLING)
    coverage: Coverage = samples.mean(axis=(1, 3)).astype(np.float32)
    return coverage


def shaded(rgb: Rgb, size: Size) -> npt.NDArray[np.float32]:
    """Return a thing's colour per row, ``[28, 1, 3]`` float32: a little lighter on top."""
    height = np.clip((np.arange(SPRITE_SIDE) + 0.5 - SPRITE_SIDE / 2) / RADIUS[size], -1, 1)
    factor = (1.0 - SHADING * height)[:, None, None]
    colours: npt.NDArray[np.float32] = np.clip(np.array(rgb) * factor, 0, 255).astype(np.float32)
    return colours


def _inside(shape: Shape, x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Say which points lie in a shape of radius 1, y pointing down."""
    match shape:
        case Shape.CIRCLE:
            return np.asarray(x * x + y * y <= 1.0)
        case Shape.SQUARE:
            return np.asarray(np.maximum(np.abs(x), np.abs(y)) <= 0.88)
        case Shape.TRIANGLE:
            return np.asarray((y <= 0.88) & (y >= -1.0 + 2.0 * np.abs(x) * 0.94))
        case Shape.STAR:
            return _inside_star(x, y)
        case Shape.HEART:
            return _inside_heart(x, y)


def _inside_star(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """A five-pointed star: in each of ten sectors the edge runs straight from a point (radius 1.08) to a notch (0.46)."""
    outer, inner, sector = 1.08, 0.46, np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    radius = np.hypot(x, y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    notch_along, notch_across = inner * np.cos(sector), inner * np.sin(sector)
    return np.asarray(notch_across * (along - outer) - (notch_along - outer) * across <= 0)


def _inside_heart(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Two round lobes above a point: the classical heart curve (x^2 + y^2 - 1)^3 <= x^2 y^3, scaled into the unit circle."""
    u, v = x * 1.15, 0.12 - y * 1.12
    bulge = u * u + v * v - 1.0
    return np.asarray(bulge**3 - u * u * v**3 <= 0)
