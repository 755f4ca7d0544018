"""Reading a picture back into a description, by image analysis alone: what the model is scored with.

The background is the known one that fits best; things are the connected regions that differ from it. A region's colour is the
nearest known one to its median, its shape and size those of the drawn template it overlaps most, softened templates included, so
that a soft outline is not an error but a wrong or broken one is. What fits nothing well is read as None and matches no description.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from model.storybook.components import Labels, Mask, label_components
from model.storybook.scenes import (
    HEIGHT,
    HORIZON,
    PLACES,
    RGB,
    SPRITE_SIDE,
    SQUARE_WIDTH,
    WIDE_WIDTH,
    Background,
    Colour,
    Pixels,
    Place,
    Scene,
    Shape,
    Size,
    centre_of,
    draw_background,
    shape_coverage,
)

Floats = npt.NDArray[np.float32]

CONTRAST = 60.0
"""Distance from the background, in RGB, that makes a pixel part of a thing."""
MIN_AREA = 12
"""Regions of fewer pixels are specks, not things."""
MAX_BACKGROUND_ERROR = 12.0
"""Mean absolute error per channel, things left out, above which a background is none of the known ones."""
MAX_COLOUR_DISTANCE = 60.0
"""RGB distance from the nearest known colour above which a thing has none of them."""
CORE = 0.8
"""Pixels this share of the largest distance from the background tell a thing's colour: its soft edge does not."""
MIN_OVERLAP = 0.93
"""Least soft Dice overlap with a template. Calibrated on drawn scenes, sharp, blurred and noisy (tests/model/storybook)."""
MAX_OFFSET = 3
"""Pixels that a template is shifted each way to find its best place."""
MAX_PLACE_ERROR = 6.0
"""Pixels between a thing's centre and a place of the grid for it to stand there."""
WINDOW_REACH = SPRITE_SIDE // 2 + MAX_OFFSET
"""Half the side of the window in which a thing is compared with templates."""
HORIZON_SOFTNESS = 3
"""Pixel rows above and below the horizon in which its edge may lie."""
SOFTNESS = (0.0, 0.8, 1.3)
"""Blur (standard deviation in pixels) of the templates a thing is compared with."""


@dataclass(frozen=True, slots=True)
class SeenThing:
    """A region of the picture. ``None`` where nothing known fits; ``y`` and ``x`` are the centre in pixels."""

    shape: Shape | None
    colour: Colour | None
    size: Size | None
    place: Place | None
    y: float
    x: float
    overlap: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What the judge sees, things in reading order."""

    background: Background | None
    things: tuple[SeenThing, ...]

    def shows(self, scene: Scene) -> bool:
        """Whether the picture is exactly this scene: background, and every thing with its place, and nothing else."""
        return self.background is scene.background and self.shows_things(scene)

    def shows_things(self, scene: Scene) -> bool:
        """Whether exactly the scene's things are there, each on its place, whatever the background."""
        seen = [(thing.shape, thing.colour, thing.size, thing.place) for thing in self.things]
        meant = [(thing.shape, thing.colour, thing.size, thing.place) for thing in scene.things]
        return len(seen) == len(meant) and all(thing in seen for thing in meant)


def read(picture: Pixels) -> Reading:
    """Read a picture ``[64, 64 or 96, 3]``.

    Raises:
        ValueError: the picture has another size.
    """
    if picture.shape not in ((HEIGHT, SQUARE_WIDTH, 3), (HEIGHT, WIDE_WIDTH, 3)):
        raise ValueError(f"the judge reads pictures of {HEIGHT} x {SQUARE_WIDTH} or {HEIGHT} x {WIDE_WIDTH}, not {picture.shape}")
    pixels = picture.astype(np.float32)
    background, behind = _background_of(pixels)
    difference = pixels - behind
    labels, number = label_components((difference * difference).sum(axis=2) > CONTRAST**2)
    canvas = _Canvas(*(_with_margin(array) for array in (pixels, behind, labels)))
    wide = picture.shape[1] == WIDE_WIDTH
    areas = np.bincount(labels.ravel(), minlength=number + 1)
    things = [_read_thing(canvas, label, wide) for label in range(1, number + 1) if areas[label] >= MIN_AREA]
    things.sort(key=lambda thing: (thing.place or Place(9, 9), thing.y, thing.x))
    return Reading(background=background, things=tuple(things))


@dataclass(frozen=True, slots=True)
class _Canvas:
    """A picture, the background behind it and the labels of its regions, with `WINDOW_REACH` pixels added on every side."""

    pixels: Floats
    behind: Floats
    labels: npt.NDArray[np.float32]

    def window(self, y: int, x: int) -> _Canvas:
        """Cut out the square that reaches `WINDOW_REACH` pixels from (y, x) of the picture each way."""
        rows, columns = slice(y, y + 2 * WINDOW_REACH), slice(x, x + 2 * WINDOW_REACH)
        return _Canvas(self.pixels[rows, columns], self.behind[rows, columns], self.labels[rows, columns])


def _with_margin(array: npt.NDArray[np.float32] | Labels) -> Floats:
    widths = [(WINDOW_REACH, WINDOW_REACH)] * 2 + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, widths).astype(np.float32)


def _background_of(pixels: Floats) -> tuple[Background | None, Floats]:
    """Return the known background that fits best (None when even that does not fit) and its pixels, softened at the horizon."""
    best, best_error = Background.DAY, np.inf
    for background in Background:
        error = _background_error(pixels, background)
        if error < best_error:
            best, best_error = background, error
    return best if best_error <= MAX_BACKGROUND_ERROR else None, _behind(pixels, best)


def _background_error(pixels: Floats, background: Background) -> float:
    """Mean absolute error per channel over the half of the pixels that fit best: things cover less than half of a picture."""
    drawn = draw_background(background, pixels.shape[1])
    error = np.abs(pixels[::2, ::2] - drawn[::2, ::2]).mean(axis=2).ravel()
    half = error.size // 2
    return float(np.partition(error, half)[:half].mean())


def _behind(pixels: Floats, background: Background) -> Floats:
    """Return the background with, near the horizon, whatever mixture of sky and ground fits each pixel: a soft edge is no thing."""
    behind = draw_background(background, pixels.shape[1]).copy()
    edge = slice(HORIZON - HORIZON_SOFTNESS, HORIZON + HORIZON_SOFTNESS)
    sky, ground = behind[HORIZON - 1, 0], behind[HORIZON, 0]
    share = ((pixels[edge] - sky) @ (ground - sky)) / ((ground - sky) @ (ground - sky))
    behind[edge] = sky + np.clip(share, 0.0, 1.0)[..., None] * (ground - sky)
    return behind


def _read_thing(canvas: _Canvas, label: int, wide: bool) -> SeenThing:
    region = canvas.labels == label
    rows, columns = np.nonzero(region)
    y, x = (int(axis.min() + axis.max() + 1) // 2 - WINDOW_REACH for axis in (rows, columns))
    near = canvas.window(y, x)
    colour, rgb = _colour_of(region, canvas)
    shape, size, overlap, (dy, dx) = _best_template(_coverage(near.labels == label, near, rgb))
    fits = overlap >= MIN_OVERLAP
    return SeenThing(
        shape=shape if fits else None,
        colour=colour,
        size=size if fits else None,
        place=_place_of(y + dy, x + dx, wide),
        y=float(y + dy),
        x=float(x + dx),
        overlap=overlap,
    )


def _colour_of(region: Mask, canvas: _Canvas) -> tuple[Colour | None, Floats]:
    """Return the nearest known colour, and the median RGB of the region's pixels that differ most from the background."""
    pixels = canvas.pixels[region]
    distance = np.linalg.norm(pixels - canvas.behind[region], axis=1)
    rgb = np.median(pixels[distance >= CORE * distance.max()], axis=0)
    distances = np.linalg.norm(rgb - np.array(list(RGB.values())), axis=1)
    nearest = int(distances.argmin())
    return list(RGB)[nearest] if distances[nearest] <= MAX_COLOUR_DISTANCE else None, rgb.astype(np.float32)


def _coverage(region: Mask, near: _Canvas, rgb: Floats) -> Floats:
    """Return how far each pixel in and next to the region has turned from background to the thing's colour, 0 to 1; 0 elsewhere."""
    towards = rgb - near.behind
    share = ((near.pixels - near.behind) * towards).sum(axis=2) / np.maximum((towards * towards).sum(axis=2), 1.0)
    return np.where(_grown(_grown(region)), np.clip(share, 0.0, 1.0), 0.0).astype(np.float32)


def _grown(region: Mask) -> Mask:
    grown = region.copy()
    grown[1:] |= region[:-1]
    grown[:-1] |= region[1:]
    grown[:, 1:] |= region[:, :-1]
    grown[:, :-1] |= region[:, 1:]
    return grown


def _best_template(coverage: Floats) -> tuple[Shape, Size, float, tuple[int, int]]:
    """Return the template with the largest soft Dice overlap ``2 a.b / (a.a + b.b)`` over all shifts, the overlap and the shift."""
    names, templates = _templates()
    windows = np.lib.stride_tricks.sliding_window_view(coverage, (SPRITE_SIDE, SPRITE_SIDE))
    steps = windows.shape[0]
    flat = windows.reshape(steps * steps, SPRITE_SIDE * SPRITE_SIDE)
    overlaps = 2.0 * (flat @ templates.T) / ((flat * flat).sum(axis=1)[:, None] + 1e-6 + (templates * templates).sum(axis=1)[None])
    shift, template = divmod(int(overlaps.argmax()), len(names))
    shape, size = names[template]
    return shape, size, float(overlaps[shift, template]), (shift // steps - MAX_OFFSET, shift % steps - MAX_OFFSET)


@lru_cache(maxsize=1)
def _templates() -> tuple[tuple[tuple[Shape, Size], ...], Floats]:
    """Return every shape and size at every softness: names, and coverages ``[n, 28 * 28]``."""
    names = tuple((shape, size) for shape in Shape for size in Size for _ in SOFTNESS)
    drawn = [blur(shape_coverage(shape, size), softness) for shape in Shape for size in Size for softness in SOFTNESS]
    return names, np.stack(drawn).reshape(len(drawn), -1)


def blur(image: Floats, deviation: float) -> Floats:
    """Blur ``[height, width, ...]`` with a Gaussian of this standard deviation in pixels; edges are extended."""
    if deviation == 0.0:
        return image
    reach = int(np.ceil(3 * deviation))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / deviation) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        widths = [(reach, reach) if index == axis else (0, 0) for index in range(image.ndim)]
        padded = np.pad(image, widths, mode="edge")
        length = image.shape[axis]
        image = sum(weight * np.take(padded, range(step, step + length), axis=axis) for step, weight in enumerate(weights))
    return np.asarray(image, dtype=np.float32)


def _place_of(y: float, x: float, wide: bool) -> Place | None:
    """Return the place of the grid this centre stands on."""
    for place in PLACES:
        place_y, place_x = centre_of(place, wide)
        if np.hypot(y - place_y, x - place_x) <= MAX_PLACE_ERROR:
            return place
    return None
