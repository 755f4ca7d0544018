"""What every test runs under. Imported by pytest before any test module."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

# Assertions in what tests share say as much as those in the tests themselves.
pytest.register_assert_rewrite(*(f"tests.{path.stem}" for path in Path(__file__).parent.iterdir() if path.stem != "conftest"))

if not Path("/dev/nvidia0").exists():
    # Triton reads this when a kernel is decorated. With a GPU the same tests run compiled.
    os.environ.setdefault("TRITON_INTERPRET", "1")

if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    # No deadline: the first call of a torch op or a kernel pays for what all later ones share. The same examples in every run:
    # a failure seen once can be seen again. Search wider by hand with --hypothesis-profile=default, or very much wider with
    # --hypothesis-profile=thousands: new random examples, 5,000 a test.
    settings.register_profile("plait", deadline=None, derandomize=True, print_blob=True)
    settings.register_profile("thousands", deadline=None, print_blob=True, max_examples=5000)
    settings.load_profile("plait")
