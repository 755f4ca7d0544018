"""A golden directory: recorded tensors, the cases they belong to, and how close a float32 implementation must come."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from model.bagel import Bagel
from model.config import BagelConfig, ImageTransform
from model.json_object import JsonObject
from model.profile import FamilyProfile
from model.tokenizer import Tokenizer
from model.weights import load_bagel

INPUT_ATOL = 1e-6
"""Recorded inputs are arithmetic on 8-bit pixels: float32 rounding is all that may differ."""

MAX_TRUNCATED_FRACTION = 0.002
"""Share of 8-bit values that may differ by one: the reference's own float64 run moved 2 of 12288 (golden README)."""


class GoldenSet:
    """Everything in one golden directory. Sizes, names and counts all come from its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cases = JsonObject.read(path / "cases.json", "the golden cases")
        self.settings = self.cases.child("config")
        self.tensors = load_file(path / "cases.safetensors")
        self._tolerances = JsonObject.read(path / "tolerances.json", "the golden tolerances")

    @cached_property
    def config(self) -> BagelConfig:
        """The model's configuration with the image transforms the cases were made with."""
        return replace(
            BagelConfig.from_directory(self.path), vae_transform=self._transform("vae_tf"), vit_transform=self._transform("vit_tf")
        )

    @cached_property
    def model(self) -> Bagel:
        return load_bagel(self.path)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_directory(self.path, FamilyProfile.from_directory(self.path, self.config))

    def names(self, pattern: str) -> list[str]:
        """Return the recorded tensors whose whole name matches, sorted."""
        return sorted(name for name in self.tensors if re.fullmatch(pattern, name))

    def picture(self, name: str) -> Image.Image:
        """Return a recorded 8-bit picture ``[H, W, 3]``."""
        return Image.fromarray(self.tensors[name].numpy())

    def expect(self, name: str, actual: Tensor) -> None:
        """Assert that ``actual`` is the recorded tensor ``name``, within its own tolerance; integers exactly."""
        expected = self.tensors[name]
        assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, recorded {tuple(expected.shape)}"
        if not expected.is_floating_point():
            assert torch.equal(actual.to(expected.dtype), expected), f"{name} differs"
            return
        error = (actual - expected).abs().max().item()
        assert error <= self._atol(name), f"{name}: differs by {error:.2e}, allowed {self._atol(name):.2e}"

    def expect_if_recorded(self, name: str, actual: Tensor) -> None:
        """`expect` for tensors that a golden set may leave out."""
        if name in self.tensors:
            self.expect(name, actual)

    def expect_all(self, pattern: str, actual_by_name: dict[str, Tensor]) -> None:
        """Assert every recorded tensor whose name matches; there must be one."""
        names = self.names(pattern)
        assert names, f"no recorded tensor is named like {pattern}"
        for name in names:
            self.expect(name, actual_by_name[name])

    def expect_picture(self, name: str, actual: Tensor) -> None:
        """Assert a drawn 8-bit picture: truncation may move a few values by one."""
        expected = self.tensors[name]
        assert actual.shape == expected.shape
        difference = (actual.int() - expected.int()).abs()
        assert difference.max().item() <= 1, f"{name}: a value differs by {difference.max().item()}"
        num_moved, num_allowed = int(difference.count_nonzero()), math.ceil(MAX_TRUNCATED_FRACTION * difference.numel())
        assert num_moved <= num_allowed, f"{name}: {num_moved} values differ by one, allowed {num_allowed}"

    def _atol(self, name: str) -> float:
        tolerance = self._tolerances.child(name)
        return INPUT_ATOL if tolerance.string("kind") == "input" else tolerance.number("atol_float32")

    def _transform(self, name: str) -> ImageTransform:
        max_size, min_size, stride = self.settings.positives(name)
        return ImageTransform(max_size, min_size, stride)


def read_list(parent: JsonObject, name: str) -> list[JsonObject]:
    """Return the objects of a list, for parametrising before anything is loaded."""
    return [JsonObject(parent.path, fields) for fields in cast(list[dict[str, object]], parent.fields[name])]
