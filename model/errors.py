"""What goes wrong with a model directory, in words that name the file, the tensor and the shape.

The room raises one class for everything a checkpoint can get wrong; who starts the server prints it and stops.
"""

from __future__ import annotations

from pathlib import Path


class CheckpointError(Exception):
    """A model directory that cannot be served: a file is missing, broken, or does not fit the configuration."""

    @classmethod
    def missing_file(cls, path: Path, reason: str) -> CheckpointError:
        """Say that ``path`` does not exist and what it is needed for."""
        return cls(f"{path}: no such file ({reason})")

    @classmethod
    def in_file(cls, path: Path, problem: str) -> CheckpointError:
        """Say what is wrong with the file ``path``."""
        return cls(f"{path}: {problem}")

    @classmethod
    def in_tensor(cls, path: Path, tensor: str, problem: str) -> CheckpointError:
        """Say what is wrong with one tensor of the file ``path``."""
        return cls(f"{path}: tensor {tensor!r}: {problem}")

    @classmethod
    def wrong_shape(cls, path: Path, tensor: str, expected: tuple[int, ...], found: tuple[int, ...]) -> CheckpointError:
        """Say that a tensor's stored shape is not the one the configuration gives it."""
        return cls.in_tensor(path, tensor, f"expected shape {list(expected)}, found {list(found)}")
