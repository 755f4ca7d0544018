"""A side stream in a test's hands: what is begun there is done when the test says, and only then computed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kernels.side_stream import Arriving


class HeldWork:
    """Work that has been begun: `finish` does it."""

    def __init__(self, work: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
        self._work = work
        self._x = x
        self._made: torch.Tensor | None = None

    def finish(self) -> None:
        with torch.inference_mode():
            self._made = self._work(self._x)

    def take(self) -> torch.Tensor | None:
        return self._made


class HeldSide:
    """Keeps what has been begun in ``held`` until it is finished; fails to begin what comes while ``num_failures`` are left."""

    def __init__(self) -> None:
        self.held: list[HeldWork] = []
        self.num_begun = 0
        self.num_failures = 0
        self.message = "out of memory"

    def begin(self, work: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Arriving:
        if self.num_failures:
            self.num_failures -= 1
            raise RuntimeError(self.message)
        self.num_begun += 1
        begun = HeldWork(work, x)
        self.held.append(begun)
        return begun

    def finish(self, place: int = 0) -> None:
        """Finish what was begun ``place`` th of what is held."""
        self.held.pop(place).finish()
