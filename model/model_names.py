"""The names a model directory gives its model, from which `model.profile` infers the family. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from model.json_object import JsonObject

CACHE_PREFIX = "models--"
"""A Hugging Face cache keeps a model in ``models--owner--name/snapshots/commit``; that last part is what a download returns."""


def model_names(directory: Path) -> tuple[str, ...]:
    """Return each name once: the directory's own, as given and behind links, and the strings at the top of ``config.json``."""
    fields = JsonObject.read_lenient(directory / "config.json").fields
    names = [*_path_names(directory), *_path_names(directory.resolve()), *_strings(fields)]
    return tuple(dict.fromkeys(name for name in names if name))


def directory_name(directory: Path) -> str:
    """Return what a model is called where nobody says: by its repository in a cache, else by its directory."""
    path = directory.resolve()
    return _cached_name(path) or path.name


def _path_names(path: Path) -> Iterator[str]:
    yield path.name
    yield _cached_name(path)


def _cached_name(path: Path) -> str:
    cached = path.parent.parent.name
    return cached.rpartition("--")[2] if path.parent.name == "snapshots" and cached.startswith(CACHE_PREFIX) else ""


def _strings(fields: dict[str, object]) -> Iterator[str]:
    for value in fields.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str):
                yield item
