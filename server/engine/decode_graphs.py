"""Steps of decode rows alone as graphs: captured once for a size (`graph_sizes`), then replayed: the host launches one thing for all.

A graph reads fixed memory. A `StaticStep` is that memory for up to so many rows over up to so many pages; missing rows are padding, which
sees one key of its own, keeps nothing and whose logits nobody reads. What a replay computes is what the step itself would.

How a graph is captured comes from outside: on a GPU by CUDA (`CudaCapture`), in tests by something that runs the step again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from kernels.attention_work import renew_work
from kernels.plan import AttentionPlan, RowLayout
from server.engine.graph_sizes import MAX_GRAPHS, Size, size_for
from server.engine.packer import PackedBatch

logger = logging.getLogger(__name__)

Replay = Callable[[], torch.Tensor]
"""Runs a captured step over what its memory holds now; returns the same tensor each time."""
Capture = Callable[[Replay], Replay]
Forward = Callable[[torch.Tensor, torch.Tensor, AttentionPlan], torch.Tensor]
"""``(token_ids[B], positions[B], plan) -> logits[B, vocab]`` of a step of decode rows."""

CAPTURE_AT = 3
"""Capturing takes a while: only what comes again is captured."""
STEPS_UNTIL_TRIED_AGAIN = 1000
"""Of a size that there was no memory to capture."""


class StaticStep:
    """The memory of a step of up to ``size`` rows and pages; the host writes its side of it, and all of that goes to ``device`` at once."""

    def __init__(self, size: Size, page_size: int, device: torch.device) -> None:
        num_rows, num_pages = size
        self._writes, writes = _both_sides(torch.zeros(3, num_rows, dtype=torch.int64), device)
        self._rows, rows = _both_sides(torch.zeros(5 * num_rows + 2 + num_pages, dtype=torch.int32), device)
        lengths = [num_rows + 1, num_rows, num_rows, num_rows, num_rows + 1, num_pages]
        starts, index, ends, past, page_starts, pages = (part.numpy() for part in self._rows.split(lengths))
        starts[:], index[:] = np.arange(num_rows + 1), np.arange(num_rows)
        kept, slots, self._token_slots = self._writes.numpy()
        self.layout = RowLayout(starts, index, ends, past, page_starts, pages, kept, slots, num_rows, page_size)
        qo_indptr, token_index, kv_end, past_len, kv_indptr, kv_indices = rows.split(lengths)
        self.plan = AttentionPlan(
            self.layout, qo_indptr, token_index, kv_end, past_len, kv_indptr, kv_indices, writes[0], writes[1], writes[2], is_static=True
        )  # fmt: skip
        self.token_ids, self.positions = (torch.zeros(num_rows, dtype=torch.int64, device=device) for _ in range(2))
        self._on_device = (writes, rows)
        self._has_left: torch.cuda.Event | None = None

    def fill(self, packed: PackedBatch) -> None:
        """Take in a step, once the one before has left the host's side. Rows beyond it see their own key alone and keep nothing."""
        if self._has_left is not None:
            self._has_left.synchronize()
        here, there = self.layout, packed.layout
        num, num_pages = there.num_rows, len(there.kv_indices)
        here.kv_end[:num], here.kv_end[num:] = there.kv_end, 1
        here.past_len[:num], here.past_len[num:] = there.past_len, 0
        here.kv_indptr[: num + 1], here.kv_indptr[num + 1 :] = there.kv_indptr, num_pages
        here.kv_indices[:num_pages] = there.kv_indices
        # What keeps by columns keeps the first row once more for each row that is padding; what looks at each token's slot finds none.
        here.write_tokens[:num], here.write_tokens[num:] = there.write_tokens, there.write_tokens[0]
        here.write_slots[:num], here.write_slots[num:] = there.write_slots, there.write_slots[0]
        self._token_slots[:] = -1
        self._token_slots[there.write_tokens] = there.write_slots
        for host, device in zip((self._writes, self._rows), self._on_device, strict=True):
            if host is not device:
                device.copy_(host, non_blocking=True)
        if self.token_ids.is_cuda:
            self._has_left = torch.cuda.Event()
            self._has_left.record()
        self.token_ids[:num].copy_(packed.und_token_ids)
        self.positions[:num].copy_(packed.positions)
        renew_work(self.plan)


def _both_sides(zeros: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return memory on the host and the same on ``device``: one and the same on a CPU."""
    if device.type == "cpu":
        return zeros, zeros
    return zeros.pin_memory(), zeros.to(device)


@dataclass(frozen=True, slots=True)
class _Graph:
    step: StaticStep
    replay: Replay


class DecodeGraphs:
    """Graphs by size. ``forward`` is the step they stand for, ``capture`` how it becomes one."""

    def __init__(self, forward: Forward, capture: Capture, page_size: int, device: torch.device) -> None:
        self._forward = forward
        self._capture = capture
        self._page_size = page_size
        self._device = device
        self._graphs: OrderedDict[Size, _Graph] = OrderedDict()
        self._asked: Counter[Size] = Counter()
        self._can_capture = True
        self.capture_s = 0.0
        """Seconds that capturing has taken so far: no step is that slow by itself."""

    @property
    def sizes(self) -> list[Size]:
        """What there are graphs of, the longest unused first."""
        return list(self._graphs)

    def logits(self, packed: PackedBatch) -> torch.Tensor | None:
        """Return the logits ``[num_rows, vocab]`` of a step by replaying it, good until the next one; None where it must be run itself.

        Raises:
            RuntimeError: what the device raises; no graph is used again.
        """
        size = size_of(packed)
        if size is None:
            return None
        graph = self._graphs.get(size) or self._captured_when_it_comes_again(size, packed)
        if graph is None:
            return None
        self._graphs.move_to_end(size)
        graph.step.fill(packed)
        try:
            return graph.replay()[: packed.num_und]
        except RuntimeError:
            self._graphs.clear()
            raise

    def prepare(self, packed: PackedBatch) -> bool:
        """Capture the graph that serves a step before it is asked for; returns whether there is one. Runs the step's forward pass."""
        size = size_of(packed)
        return size is not None and (self._graphs.get(size) or self._captured(size, packed)) is not None

    def _captured_when_it_comes_again(self, size: Size, packed: PackedBatch) -> _Graph | None:
        self._asked[size] += 1
        return None if self._asked[size] < CAPTURE_AT else self._captured(size, packed)

    def _captured(self, size: Size, packed: PackedBatch) -> _Graph | None:
        """Capture a size, where that is possible."""
        if not self._can_capture:
            return None
        started = time.perf_counter()
        step = StaticStep(size, self._page_size, self._device)
        step.fill(packed)
        try:
            replay = self._capture(lambda: self._forward(step.token_ids, step.positions, step.plan))
        except torch.OutOfMemoryError:
            logger.warning("no memory to capture decode steps of %d rows; they are run one launch at a time for a while", size[0])
            self._asked[size] = CAPTURE_AT - STEPS_UNTIL_TRIED_AGAIN
            return None
        except RuntimeError as error:
            logger.warning("decode steps cannot be captured here and are run one launch at a time: %s", error)
            self._can_capture = False
            return None
        finally:
            self.capture_s += time.perf_counter() - started
        graph = self._graphs[size] = _Graph(step, replay)
        if len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)
        return graph


def size_of(packed: PackedBatch) -> Size | None:
    """Return the size of graph that serves a step, None where it does more than draw one token for each of a few rows of one."""
    layout = packed.layout
    is_plain = layout.num_rows == layout.num_tokens == packed.num_und == len(packed.draws) and not packed.vit_images
    return size_for(layout.num_rows, len(layout.kv_indices), layout.page_size) if is_plain else None


class CudaCapture:
    """Captures on the current CUDA device. All graphs share their memory: no two run at once, and a step's logits are read within it.

    Kernels keep the priority of the stream they are captured on: it has that of the one that steps are given to. No capture begins there,
    but on a stream of PyTorch's: since 2.12, when a graph is dropped, PyTorch frees what cuBLAS works with on the stream where the graph's
    capture began, and would take it from all others (pytorch/pytorch#193402).
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(priority=torch.cuda.current_stream().priority)

    def __call__(self, work: Replay) -> Replay:
        """Run ``work`` once, which builds what it needs, and capture it.

        Raises:
            RuntimeError: it cannot be captured. The current stream is what it was; with PyTorch 2.11 no other capture succeeds any more.
        """
        current = torch.cuda.current_stream()
        self._run(work)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                logits = self._run(work)
        finally:
            torch.cuda.set_stream(current)  # which PyTorch leaves to a capture whose end fails

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return replay

    def _run(self, work: Replay) -> torch.Tensor:
        """Run ``work`` on the stream of all captures, after what the current stream has been given and before what it is given next."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                return work()
        finally:
            current.wait_stream(self._stream)
