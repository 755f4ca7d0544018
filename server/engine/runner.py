"""The runner: executes one batch on the model. Owns the KV pool, the latents and the encoded pictures; decides nothing.

`_steps` is the journey of a step: copy pages, draw noise, encode pictures, pack, one forward pass over every row, then tokens are
drawn, Euler steps taken and finished latents decoded, or handed over to be decoded beside the steps. Drawings change only when nothing
can go wrong any more, so a step that raised can be run again in parts.
`execute` walks it in one go; a `Pass` can be left between two bits, parts of a layer, where other batches may be executed; a `PassBeside`
goes on meanwhile, on a thread of its own: what steps share is kept in dicts by sequence, or locks itself. `launch` comes
back once the device knows what to do, and the next step can be launched before what this one brought is collected. Where a draw has to
wait for what the step before brings, the device is told of the draws later, of the forward pass at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
import torch

from kernels.pages import copy_pages
from kernels.plan import AttentionPlan, build_attention_plan
from kernels.readback import begin_reading
from kernels.sampling import Drawn, begin_draws, find_unsound
from kernels.side_stream import CudaSideStream, SideStream
from model.bagel import Bagel, PackedTokens
from model.latents import grid_position_ids, u8_from_pixels, unpatchify
from model.stepwise import Cut, Steps, finest_cut, run_through
from server.engine.batch import Batch, BatchResult, DecodeRow, DenoiseRow, DenoiseStep, DrawnToken, NewImage
from server.engine.bit_pace import BitPaces
from server.engine.decode_graphs import Capture, CudaCapture, DecodeGraphs
from server.engine.drawing import Drawing
from server.engine.euler_steps import EulerSteps, RowVelocities
from server.engine.fault_points import NO_FAULTS
from server.engine.launched_step import Computed, LaunchedStep
from server.engine.long_pass import Pass, PassBeside
from server.engine.packer import LatentRun, Markers, PackedBatch, pack, put
from server.engine.paged_attention import PagedKeysValues
from server.engine.pictures import DecodedBeside, PictureEncoder, picture_from_u8
from server.engine.previews import PreviewPainter
from server.engine.queued_bits import QueuedBits, mark_on
from server.engine.sampling_rows import sampling_rows
from server.engine.segments import PictureSegment
from server.engine.thread_beside import ThreadBeside
from server.messages import ImageParams, TokenLogprob

NoiseSource = Callable[[int, int, int, int], torch.Tensor]
"""(seed, image index, num_tokens, channels) -> float32 ``[num_tokens, channels]`` on the CPU."""


def seeded_noise(seed: int, image_index: int, num_tokens: int, channels: int) -> torch.Tensor:
    """Draw unit Gaussian noise that depends only on the request's seed and the image's number."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + image_index) & 0x7FFF_FFFF_FFFF_FFFF)
    return torch.randn(num_tokens, channels, generator=generator)


class Runner:
    """Runs batches on one model and one device."""

    def __init__(
        self, model: Bagel, cache: PagedKeysValues, markers: Markers, painter: PreviewPainter, noise: NoiseSource = seeded_noise
    ) -> None:
        self._model = model
        self._cache = cache
        self._markers = markers
        self._painter = painter
        self._noise = noise
        self.faults = NO_FAULTS
        """Where tests break a step on purpose."""
        self._device = cache.pool.device
        self._finest_cut = finest_cut(self._device.type)
        self._bit_paces = BitPaces()
        self._drawings: dict[int, Drawing] = {}
        self.euler_steps = EulerSteps(painter, takes_together=cache.pool.is_cuda)
        self._encoder = PictureEncoder(model, self._device)
        self._position_ids: dict[tuple[int, int], torch.Tensor] = {}
        self._drawn: dict[int, tuple[torch.Tensor, int]] = {}
        self._collected_s = 0.0
        self._captured_s = 0.0
        self.decode_graphs: DecodeGraphs | None = None
        self._side: SideStream | None = None
        self._thread: ThreadBeside | None = None
        if cache.pool.is_cuda:
            self.capture_decodes(CudaCapture())
            self.decode_beside(CudaSideStream(self._device))

    def latents(self, sequence_id: int) -> torch.Tensor:
        """Return the latents of the sequence's image under way: float32 ``[num_tokens, channels]``."""
        return self._drawings[sequence_id].latents

    def forget(self, sequence_ids: list[int]) -> None:
        """Drop what is kept for finished sequences."""
        for sequence_id in sequence_ids:
            self._drawings.pop(sequence_id, None)
            self._drawn.pop(sequence_id, None)

    def execute(self, batch: Batch) -> BatchResult:
        """Run one step.

        Raises:
            RuntimeError: what the device raises; latents are then as before the step.
        """
        return self.launch(batch).collect()

    def launch(self, batch: Batch) -> LaunchedStep:
        """Begin a step without waiting for the device. Launched steps are collected in the order they were launched in.

        Raises:
            RuntimeError: what the device raises; so may collecting. Latents are then as before the step.
        """
        launched_s = time.perf_counter()
        with torch.inference_mode():
            computed = run_through(self._compute(batch))
        if not batch.waits_for_commit:
            self._draw(computed)
        return LaunchedStep(partial(self._draw, computed), partial(self._collect, computed, launched_s))

    def _collect(self, computed: Computed, launched_s: float) -> BatchResult:
        self._draw(computed)
        with torch.inference_mode():
            result = run_through(self._finish(computed))
        # What a step costs is learnt from this: capturing it, which happens once, is no part of that.
        now_s, capture_s = time.perf_counter(), self._capture_s
        result.execute_s = now_s - max(launched_s, self._collected_s) - (capture_s - self._captured_s)
        self._collected_s, self._captured_s = now_s, capture_s
        return result

    def begin(self, batch: Batch) -> Pass | PassBeside:
        """Begin a step that others are let through. No other batch may touch its sequences or their pages until it has ended.

        Raises:
            RuntimeError: what the device raises; the step is then as if it had not been begun.
        """
        with torch.inference_mode():
            self._copy_pages(batch)  # before others may be given the pages it copies from
        if self._thread is not None:
            return PassBeside(self._thread.begin(self._steps(batch)))
        return Pass(self._steps(batch), self._bit_paces.of(batch.bits_per_layer), QueuedBits(mark_on(self._device)))

    def _steps(self, batch: Batch) -> Steps[BatchResult]:
        computed = yield from self._compute(batch)
        self._draw(computed)
        return (yield from self._finish(computed))

    def _compute(self, batch: Batch) -> Steps[Computed]:
        self._copy_pages(batch)
        self._start_images(batch.new_images)
        self.faults.in_step(batch)
        packed = pack(batch, self._cache.page_size, self._markers, self._device)
        self._feed_drawn(batch.decodes, packed.und_token_ids)
        result = BatchResult(num_und_tokens=packed.num_und, num_gen_tokens=packed.num_gen)
        started = time.perf_counter()
        if (replayed := self._replayed(packed)) is not None:
            # The next replay writes over its logits; where drawing waits, a step may be run again meanwhile.
            hidden = logits = replayed.clone() if batch.waits_for_commit else replayed
        else:
            embedded = yield from self._embed(packed)
            yield
            result.num_pictures_encoded = self._encoder.take_num_encoded()
            started = time.perf_counter()
            hidden, logits = yield from self._forward(packed, embedded, self._finest_cut.into(batch.bits_per_layer))
        result.forward_s = time.perf_counter() - started
        after = self._move_on(batch.denoises, hidden[packed.num_und :], packed.latent_runs) if batch.denoises else {}
        return Computed(packed, logits, after, [step for step in batch.denoises if step.is_last], result)

    def _draw(self, computed: Computed) -> None:
        """Tell the device to draw the step's tokens, unless it has been told; from here on nothing can go wrong any more but with pictures
        that are done."""
        if computed.reading is not None:
            return
        with torch.inference_mode():
            self._begin_reading(computed)
        if (draws := computed.draws) is not None:
            self._drawn.update({sequence_id: (draws.columns[0], k) for k, (sequence_id, _) in enumerate(computed.packed.draws)})
        if not computed.ending or self._side is not None:
            self._drawings.update(computed.after)

    def _finish(self, computed: Computed) -> Steps[BatchResult]:
        result, ending = computed.result, computed.ending
        assert computed.reading is not None
        numbers = computed.reading.numbers()
        if computed.draws is not None:
            rows_are_sound, *drawn = numbers[len(ending) :]
            self._take_tokens(computed.packed, rows_are_sound, computed.draws.drawn(drawn), result)
        if ending:
            sound = [bool(is_finite) for (is_finite,) in numbers[: len(ending)]]
            yield from self._decode_sound(zip(ending, sound, strict=True), computed.after, result)
            if self._side is None:
                self._drawings.update(computed.after)
        result.previews = self._painter.take()
        return result

    def _feed_drawn(self, rows: list[DecodeRow], und_token_ids: torch.Tensor) -> None:
        """Feed the rows of tokens that the host does not know yet, from where the step under way draws them."""
        unknown = [(k, *self._drawn[row.sequence_id]) for k, row in enumerate(rows) if row.token_id is None]
        for token_ids in {id(source): source for _, source, _ in unknown}.values():
            places = [(k, place) for k, source, place in unknown if source is token_ids]
            if places == [(k, k) for k in range(len(rows))]:
                und_token_ids[: len(rows)].copy_(token_ids[: len(rows)])
            else:
                to, at = put(np.array(places, dtype=np.int64).T.copy(), self._device)
                und_token_ids.index_copy_(0, to, token_ids[at])

    def capture_decodes(self, capture: Capture) -> None:
        """From now on replay steps of decode rows alone, as ``capture`` captures them."""
        self.decode_graphs = DecodeGraphs(self._decode_logits, capture, self._cache.page_size, self._device)

    def decode_beside(self, side: SideStream | None) -> None:
        """From now on hand over finished latents to be decoded on ``side``; without one decode them within the step that finished them."""
        self._side = side

    def pass_beside(self, thread: ThreadBeside) -> None:
        """From now on take long passes on ``thread``, beside the steps."""
        self._thread = thread

    @property
    def share_of_steps(self) -> float:
        """What share of the processors steps have beside a long pass; 0 where they are let through between its bits."""
        return 0.0 if self._thread is None else self._thread.share_of_steps

    def stand_still(self) -> None:
        """Let the pass under way beside the steps, if there is one, stand still until it is advanced again."""
        if self._thread is not None:
            self._thread.stand_still()

    def go_on(self) -> None:
        """Let it go on."""
        if self._thread is not None:
            self._thread.go_on()

    def close(self) -> None:
        """Give up the pass under way beside the steps, if there is one."""
        if self._thread is not None:
            self._thread.close()

    def begin_encoding(self, image: PictureSegment) -> Callable[[], bool]:
        """Begin to encode a picture beside the steps; return what tells whether that is done, or left to the step that needs it."""
        return (lambda: True) if self._side is None else self._encoder.begin(image, self._side)

    @property
    def decodes_beside(self) -> bool:
        """Whether a step that finishes a picture leaves it to others to decode it, so that the next may begin before it has been."""
        return self._side is not None

    def capture(self, batch: Batch) -> bool:
        """Capture the graph that would serve a step of decode rows alone; returns whether there is one. Writes into their pages."""
        if self.decode_graphs is None:
            return False
        with torch.inference_mode():
            is_there = self.decode_graphs.prepare(pack(batch, self._cache.page_size, self._markers, self._device))
        self._captured_s = self._capture_s
        return is_there

    def _decode_logits(self, token_ids: torch.Tensor, positions: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        tokens = PackedTokens(self._model.embed_text(token_ids), positions, len(token_ids))
        return self._model.logits(self._model(tokens, self._cache.attend(plan)))

    @property
    def _capture_s(self) -> float:
        return 0.0 if self.decode_graphs is None else self.decode_graphs.capture_s

    def _replayed(self, packed: PackedBatch) -> torch.Tensor | None:
        return None if self.decode_graphs is None else self.decode_graphs.logits(packed)

    def _copy_pages(self, batch: Batch) -> None:
        if batch.copies:
            pages = np.array([[copy.source, copy.target] for copy in batch.copies], dtype=np.int64)
            copy_pages(self._cache.pool, *put(pages.T.copy(), self._device))
            batch.copies.clear()

    def _start_images(self, new_images: list[NewImage]) -> None:
        stride = self._markers.latent_stride
        for new in new_images:
            num_tokens = (new.params.height // stride) * (new.params.width // stride)
            noise = self._noise(new.params.seed, new.image_index, num_tokens, self._model.config.latent_dim)
            self._drawings[new.sequence_id] = Drawing(noise.to(self._device, torch.float32))

    def _forward(self, packed: PackedBatch, embedded: torch.Tensor, cut: Cut) -> Steps[tuple[torch.Tensor, torch.Tensor]]:
        """Run every layer, and read the logits of the rows a token is drawn from."""
        tokens = PackedTokens(embedded, packed.positions, packed.num_und)
        plan = build_attention_plan(packed.layout, self._device)
        hidden = yield from self._model.forward_in_steps(tokens, self._cache.attend(plan), cut)
        if not packed.draws:
            return hidden, hidden
        # Every token drawn from is every row of one token, in order: nothing to gather.
        return hidden, self._model.logits(hidden if len(packed.draws) == len(hidden) else hidden[packed.draw_index])

    def _embed(self, packed: PackedBatch) -> Steps[torch.Tensor]:
        und = self._model.embed_text(packed.und_token_ids)
        if packed.vit_images:
            und[packed.vit_index] = (yield from self._encoder.vit_embeddings(packed.vit_images)).to(und.dtype)
        if not packed.latent_runs:
            return und
        return torch.cat([und, (yield from self._embed_latents(packed.latent_runs)).to(und.dtype)])

    def _embed_latents(self, runs: list[LatentRun]) -> Steps[torch.Tensor]:
        latents = []
        for run in runs:
            latents.append((yield from self._latents_of(run)))
        x_t = torch.cat(latents)
        times = np.array([run.timestep for run in runs], dtype=np.float32)
        timestep = put(times.repeat([run.num_tokens for run in runs]), self._device)
        return self._model.embed_latents(x_t, timestep, torch.cat([self._latent_positions(run) for run in runs]))

    def _latents_of(self, run: LatentRun) -> Steps[torch.Tensor]:
        if isinstance(run.source, DenoiseRow):
            return self._drawings[run.source.sequence_id].latents
        return (yield from self._encoder.clean_latents(run.source))

    def _latent_positions(self, run: LatentRun) -> torch.Tensor:
        grid = (run.grid_height, run.grid_width)
        if grid not in self._position_ids:
            side = self._model.config.latent_table_side
            self._position_ids[grid] = grid_position_ids(*grid, side).to(self._device)
        return self._position_ids[grid]

    def _move_on(self, steps: list[DenoiseStep], hidden: torch.Tensor, runs: list[LatentRun]) -> dict[int, Drawing]:
        """Take the Euler steps of every image whose rows are all in: x <- x - v dt (spec 6.1)."""
        return self.euler_steps.take(steps, self._drawings, self._velocities(hidden, runs))

    def _begin_reading(self, computed: Computed) -> None:
        """Draw the step's tokens, and begin to read whether finished latents are finite, and the tokens: the one wait in a step.

        A number that was not finite at any step of a picture has spread by its last; once a picture is early enough to ask.
        """
        packed = computed.packed
        columns = [torch.isfinite(computed.after[step.sequence_id].latents).all() for step in computed.ending]
        if packed.draws:
            # A row that is unsound, or whose grammar stopped, is drawn from like any other, and thrown away: it spoils no neighbour's draw.
            is_sound, logits = find_unsound(computed.logits)
            fed = packed.und_token_ids[packed.draw_index] if any(draw.counts_fed for _, draw in packed.draws) else None
            computed.draws = begin_draws(logits, sampling_rows(packed.draws, computed.result.stopped), fed)
            columns += [is_sound, *computed.draws.columns]
        computed.reading = begin_reading(columns, self._device)

    def _take_tokens(self, packed: PackedBatch, is_sound: list[float], drawn: list[Drawn], result: BatchResult) -> None:
        for (sequence_id, _), token, sound in zip(packed.draws, drawn, is_sound, strict=True):
            if not sound:
                result.broken.append(sequence_id)
            if not sound or sequence_id in result.stopped:
                continue
            logprob = None if token.logprob is None else TokenLogprob(token.token_id, token.logprob.logprob, token.logprob.top)
            result.tokens[sequence_id] = DrawnToken(token.token_id, logprob)

    def _decode_sound(self, ending: Iterable[tuple[DenoiseStep, bool]], after: Mapping[int, Drawing], result: BatchResult) -> Steps[None]:
        """Decode the pictures that are done, or have them decoded beside; those whose latents are not finite are broken."""
        started = time.perf_counter()
        for step, is_sound in ending:
            latents = after[step.sequence_id].latents
            if not is_sound:
                result.broken.append(step.sequence_id)
            elif self._side is not None:
                result.late[step.sequence_id] = DecodedBeside(self._side, partial(self._pixels, step.params), latents)
            else:
                result.pictures[step.sequence_id] = picture_from_u8((yield from self._decode(step.params, latents)))
        if result.pictures:
            result.vae_s = time.perf_counter() - started

    def _velocities(self, hidden: torch.Tensor, runs: list[LatentRun]) -> RowVelocities:
        """Read the velocity of each denoise row."""
        denoise = [run for run in runs if isinstance(run.source, DenoiseRow)]
        start, end = denoise[0].start, denoise[-1].start + denoise[-1].num_tokens
        return RowVelocities(self._model.velocity(hidden[start:end]), {id(run.source): run.start - start for run in denoise})

    def _pixels(self, params: ImageParams, x: torch.Tensor) -> torch.Tensor:
        return run_through(self._decode(params, x))

    def _decode(self, params: ImageParams, x: torch.Tensor) -> Steps[torch.Tensor]:
        """Decode latents ``[num_tokens, channels]`` to 8-bit pixels ``[height, width, 3]``."""
        grid = (params.height // self._markers.latent_stride, params.width // self._markers.latent_stride)
        latent = unpatchify(x, *grid, self._model.config.latent_patch_size)
        return u8_from_pixels((yield from self._model.vae.decode_in_steps(latent[None])))
