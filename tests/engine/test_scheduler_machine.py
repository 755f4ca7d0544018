"""Random histories of the scheduler, as a state machine: whatever happens in whatever order, its books balance.

Requests of every kind and tenant come, are aborted, expire, run out of pages, finish; steps fail; long passes are divided, and what
happens between their layers happens before they land; pictures come with the step that finished them, or later in any order, or never,
and are encoded in the step that takes them in, or before it. After every action nothing is owned twice, lost, or rewritten.

CI runs a few hundred histories, the same each time; thousands of new ones:

    python -m pytest tests/engine/test_scheduler_machine.py -o timeout=0 --hypothesis-profile=thousands --hypothesis-show-statistics
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loadtests.gpu.sum_grammars import SumGrammar, SumGrammars
from server.engine.batch import Batch, DecodeRow
from server.engine.fairness import PATIENCE_STEPS
from server.engine.options import SchedulerLimits
from server.engine.pages import PagePool, Pages
from server.engine.scheduler import Scheduler
from server.engine.segments import ContextSegment, VaeImage, VitImage
from server.engine.sequence import Phase, Sequence
from server.messages import FinishReason, Request
from tests.clock import Clock
from tests.engine.any_requests import FAVOURED, PLAIN, drawn, requests
from tests.engine.fakes import EOS, FakeEncoder, FakeRunner, Grey, facts, refeed
from tests.engine.written_pages import WrittenPages

MAX_RUNNING = 4
MAX_WAITING = 6
TOKEN_S = 1e-3
MAX_STEPS_TO_DRAIN = 20_000
MAX_EMPTY_STEPS = MAX_RUNNING
"""An empty step ends a sequence, or moves one on that misses no more rows; both come to an end."""
NUM_HISTORIES = 200
DECODER_STEPS = 3
"""So often the decoder has finished the picture that it has had for longest."""
ENCODER_STEPS = 2
"""So often an encoder has."""
COMPILER_STEPS = 3
"""So often the grammar that has been compiled for longest is done."""
ROOMY_PAGES = 300
"""With so many pages nobody waits for those that another holds."""


@dataclass(frozen=True, slots=True)
class Device:
    """What goes on by itself while the host goes on: steps, the decoder of finished pictures, the encoders of prompts' pictures, the
    compilers of grammars; and the share of it that steps have beside a long pass."""

    runs_ahead: bool = False
    decodes_beside: bool = False
    encodes_beside: bool = False
    share_of_steps: float = 0.0
    compiles_beside: bool = False


IN_STEP = Device()


@dataclass(slots=True)
class Waits:
    """How many main steps in a row a sequence could have been served and was not."""

    steps: Counter[int] = field(default_factory=Counter)

    def note(self, candidates: set[int], served: set[int]) -> None:
        for sequence_id in candidates - served:
            self.steps[sequence_id] += 1
        for sequence_id in [*self.steps]:
            if sequence_id in served or sequence_id not in candidates:
                del self.steps[sequence_id]


def pages_of(batch: Batch) -> list[Pages]:
    """Return the pages of every row, read or written."""
    denoise = [row for step in batch.denoises for row in step.rows]
    return [row.pages for row in batch.decodes] + [row.pages for row in batch.prefills] + [row.pages for row in denoise]


class SchedulerMachine(RuleBasedStateMachine):
    """The scheduler under random treatment.

    ``long`` is a divided pass that has not landed, ``ahead`` a step that ran ahead of the last, ``in_decoder`` the pictures that are
    decoded beside the steps and whose they are.
    """

    pool_type = PagePool

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.names: list[str] = []
        self.ends: Counter[str] = Counter()
        self.canon: dict[int, tuple[list[ContextSegment], list[int]]] = {}
        self.waits = Waits()
        self.long: Batch | None = None
        self.long_pages: set[int] = set()
        self.ahead: Batch | None = None
        self.passengers: list[Sequence] = []
        self.in_decoder: dict[int, tuple[Sequence, Grey]] = {}
        self.encoder = FakeEncoder()
        self.num_steps = 0
        self.is_sound = True
        self.has_favoured = False
        self.num_empty_steps = 0

    @initialize(
        num_pages=st.sampled_from([24, 48, ROOMY_PAGES]),
        page_size=st.sampled_from([1, 3, 4, 16]),
        max_batch_tokens=st.sampled_from([8, 40, 200]),
        target_s=st.sampled_from([None, 1e-9, 1e-9, 0.02, 1.0]),
        has_prefix_cache=st.booleans(),
        device=st.builds(Device, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.5]), st.booleans()),
    )
    def open(
        self,
        num_pages: int,
        page_size: int,
        max_batch_tokens: int,
        target_s: float | None,
        has_prefix_cache: bool,
        device: Device,
    ) -> None:
        self.runs_ahead = device.runs_ahead
        self.pool = self.pool_type(num_pages, page_size)
        self.limits = SchedulerLimits(max_batch_tokens, MAX_RUNNING, MAX_WAITING, target_s, has_prefix_cache)
        of_model = replace(facts(), share_of_steps=device.share_of_steps)
        self.grammars = SumGrammars(vocab=60, are_compiled=not device.compiles_beside)
        self.scheduler = Scheduler(self.pool, of_model, self.limits, refeed, self.grammars, self.clock)
        self.scheduler.encodings.encoder = self.encoder if device.encodes_beside else None
        self.runner = FakeRunner(drawn, decodes_beside=device.decodes_beside)
        self.written = WrittenPages(page_size, drawn)

    @rule(request=requests())
    def submit(self, request: Request) -> None:
        name = f"r{len(self.names)}"
        self.names.append(name)
        self.scheduler.submit(replace(request, request_id=name))
        self.collect()

    @rule(request=requests(), count=st.integers(2, 3))
    def submit_equal_prompts(self, request: Request, count: int) -> None:
        for _ in range(count):
            self.submit(request)

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.scheduler.abort(data.draw(st.sampled_from(self.names)))
        self.collect()

    @rule(seconds=st.floats(0.0, 0.3))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.one_step(fails=False)

    @rule()
    def fail_a_step(self) -> None:
        self.one_step(fails=True)

    @precondition(lambda self: self.in_decoder)
    @rule(data=st.data(), fails=st.booleans())
    def a_picture_leaves_the_decoder(self, data: st.DataObject, fails: bool) -> None:
        sequence_id = data.draw(st.sampled_from([*self.in_decoder]))
        if fails:
            self.scheduler.fail([sequence_id], "server_error", "the model failed on this request")
        self.leave_decoder(sequence_id, fails=fails)
        self.collect()

    @precondition(lambda self: self.encoder.under_way)
    @rule(data=st.data())
    def a_picture_is_encoded(self, data: st.DataObject) -> None:
        self.encoder.finish(data.draw(st.sampled_from([*self.encoder.under_way])))

    @rule()
    def a_grammar_is_compiled(self) -> None:
        self.compile_one()

    def compile_one(self) -> None:
        awaited = (sequence.grammar for sequence in self.scheduler.running if not sequence.can_draw_token)
        if isinstance(grammar := next(awaited, None), SumGrammar):
            grammar.is_compiled = True

    def leave_decoder(self, sequence_id: int, *, fails: bool) -> None:
        _, picture = self.in_decoder.pop(sequence_id)
        self.scheduler.in_decoder.take_in(sequence_id, None if fails else picture.take())

    @precondition(lambda self: self.pool.num_pages >= ROOMY_PAGES and not self.has_favoured)
    @rule()
    def keep_the_favoured_coming(self) -> None:
        """Once in a history: a plain picture, then ones of high priority that go before it for longer than anyone may be passed over."""
        self.has_favoured = True
        self.submit(PLAIN)
        for _ in range(2 * PATIENCE_STEPS):
            if self.scheduler.num_waiting < MAX_WAITING:
                self.submit(FAVOURED)
            self.one_step(fails=False)

    def one_step(self, *, fails: bool) -> None:
        """Make a step; one that is found wrong is not committed, and nothing goes on from there."""
        self.is_sound = False
        self._one_step(fails=fails)
        self.is_sound = True

    def _one_step(self, *, fails: bool) -> None:
        """What `Engine.step` does: a step, or one that is let through a long pass, or the long pass's landing."""
        self.num_steps += 1
        if self.encoder.under_way and self.num_steps % ENCODER_STEPS == 0:
            self.encoder.finish(next(iter(self.encoder.under_way)))
        if self.num_steps % COMPILER_STEPS == 0:
            self.compile_one()
        if self.in_decoder and self.num_steps % DECODER_STEPS == 0:
            self.leave_decoder(next(iter(self.in_decoder)), fails=False)
        if self.long is not None:
            between = self.scheduler.schedule_between(TOKEN_S)
            self.check_batch(between)
            if not between.is_empty:
                self.land(between, fails=fails)
                return
            landing, self.long = self.long, None
            self.land(landing, fails=fails)
            return
        batch = self.ahead or self.next_batch()
        if batch.is_divisible:
            self.long = batch
            self.long_pages = {page for row in pages_of(batch) for page in row}
            self.passengers = self.riders(batch)
        elif not batch.is_empty:
            self.run_ahead(batch)
            self.land(batch, fails=fails)
        awaits_others = self.in_decoder or self.encoder.under_way or not all(other.can_draw_token for other in self.scheduler.running)
        is_stuck = batch.is_empty and self.scheduler.running and not awaits_others
        self.num_empty_steps = self.num_empty_steps + 1 if is_stuck else 0
        assert self.num_empty_steps <= MAX_EMPTY_STEPS, "there is work, and nothing of it goes on"
        self.collect()

    def next_batch(self) -> Batch:
        candidates = {other.sequence_id for other in self.scheduler.running if other.can_be_served}
        batch = self.scheduler.schedule()
        self.check_batch(batch)
        self.note_waits(candidates, batch)
        return batch

    def run_ahead(self, batch: Batch) -> None:
        """Begin the step after ``batch`` before that has landed, where it can be foreseen."""
        self.ahead = None
        if not self.runs_ahead:
            return
        candidates = {other.sequence_id for other in self.scheduler.running if other.can_be_served}
        ahead = self.scheduler.schedule_ahead(batch)
        self.check_batch(ahead)
        self.note_waits(candidates, ahead)
        assert not ahead.is_divisible
        if not ahead.is_empty:
            self.ahead = ahead
            self.passengers = self.riders(ahead)

    def riders(self, batch: Batch) -> list[Sequence]:
        return [other for other in self.scheduler.running if other.sequence_id in batch.sequence_ids()]

    def check_draws(self, batch: Batch) -> None:
        """A decode row that is still wanted draws the token that comes next, from the row that comes next."""
        later = set() if self.ahead is None else set(self.ahead.sequence_ids())
        running = {other.sequence_id: other for other in self.scheduler.running}
        for row in batch.decodes:
            sequence = running.get(row.sequence_id)
            if sequence is not None and sequence.phase is Phase.DECODE:
                assert row.draw.index == sequence.num_draws
                assert row.kv_len + 1 + int(row.sequence_id in later) == sequence.full.kv_len
                self.check_what_is_counted(row, sequence)

    def check_what_is_counted(self, row: DecodeRow, sequence: Sequence) -> None:
        """Whoever has penalties counts all tokens before the draw, the one being fed included; so does a grammar by then."""
        draw, params = row.draw, sequence.request.sampling
        fed = [drawn(sequence.sequence_id, draw.index - 1)] if draw.counts_fed else []
        counted = Counter(fed) + Counter(dict(zip(draw.written.token_ids, draw.written.counts, strict=True)))
        assert counted == Counter(sequence.text_ids if params.has_penalty else [])
        assert (EOS in draw.suppressed) == (len(sequence.text_ids) < params.min_tokens)
        assert (draw.grammar is None) == (params.grammar is None)
        assert not isinstance(draw.grammar, SumGrammar) or draw.grammar.accepted == sequence.text_ids

    def land(self, batch: Batch, *, fails: bool) -> None:
        self.check_draws(batch)
        result = self.runner.execute(batch)
        result.execute_s = TOKEN_S * (1 + sum(batch.query_tokens().values()))
        self.clock.now += result.execute_s
        wanted = self.scheduler.without_void(batch).sequence_ids()
        if fails and wanted:
            victim = wanted[0]
            self.scheduler.fail([victim], "server_error", "the model failed on this request")
            result.tokens.pop(victim, None)
            result.pictures.pop(victim, None)
            result.late.pop(victim, None)
            for spoilt in (batch, self.ahead or Batch()):
                self.written.spoil(spoilt, victim)
        self.scheduler.commit(batch, result)
        for one in self.scheduler.running:
            if self.scheduler.in_decoder.is_awaited(one.sequence_id) and one.sequence_id in result.late:
                self.in_decoder[one.sequence_id] = (one, Grey(one.request.image))
        self.runner.batches.clear()
        self.collect()

    def collect(self) -> None:
        outputs = self.scheduler.take_outputs()
        self.ends.update(end.request_id for end in outputs.finished)
        for end in outputs.finished:
            assert end.reason is not FinishReason.ERROR or end.error_code
        self.scheduler.take_dropped()

    def check_batch(self, batch: Batch) -> None:
        """Budgets are kept; a row writes only into pages that are its context's alone, and sees in those before it what its context should
        hold, so that nobody has written over what another found in the cache."""
        assert not self.in_decoder.keys() & set(batch.sequence_ids())
        taken_in = [piece for row in batch.prefills for piece in row.pieces if isinstance(piece, VitImage | VaeImage)]
        assert self.scheduler.encodings.encoder is None or all(piece.key in self.encoder.encoded for piece in taken_in)
        atomic = [len(step.rows) * step.num_row_tokens for step in batch.denoises]
        atomic += [piece.num_rows for row in batch.prefills for piece in row.pieces]
        num_tokens = len(batch.decodes) + sum(atomic)
        largest = max(atomic, default=0)
        assert num_tokens <= max(self.limits.max_batch_tokens, len(batch.decodes) + max(1, largest)) or len(atomic) == 1
        writers = [(row.pages, row.kv_len, 1) for row in batch.decodes]
        writers += [(row.pages, row.kv_len, sum(piece.num_rows for piece in row.pieces)) for row in batch.prefills]
        written: set[int] = set()
        for pages, start, num_rows in writers:
            for number in range(start // self.pool.page_size, self.pool.pages_for(start + num_rows)):
                assert not self.pool.is_shared(pages[number])
                assert pages[number] not in written
                assert self.long is None or pages[number] not in self.long_pages
                written.add(pages[number])
        self.written.begin(batch, self.scheduler.running)

    def note_waits(self, candidates: set[int], batch: Batch) -> None:
        served = {step.sequence_id for step in batch.denoises} | {row.sequence_id for row in batch.prefills}
        if not served:
            return
        still = {other.sequence_id for other in self.scheduler.running}
        self.waits.note(candidates & still, served)
        # A sequence also waits while older ones hold the pages it needs, so the bound is checked where there are enough.
        if self.pool.num_pages >= ROOMY_PAGES:
            assert max(self.waits.steps.values(), default=0) <= PATIENCE_STEPS + MAX_RUNNING

    @invariant()
    def no_page_is_lost_or_owned_twice(self) -> None:
        owners: Counter[int] = Counter()
        for sequence in self.everyone():
            for context in (sequence.full, *sequence.branches):
                owners.update(context.pages)
                assert len(set(context.pages)) == len(context.pages)
                assert len(context.pages) >= self.pool.pages_for(context.kv_len)
        passengers = [] if self.long is None and self.ahead is None else self.passengers
        passengers = [*passengers, *(sequence for sequence, _ in self.in_decoder.values())]
        in_flight = {page for one in passengers for context in (one.full, *one.branches) for page in context.pages}
        assert self.long is None or self.long_pages <= in_flight
        assert self.pool.num_used == len(owners.keys() | in_flight), (
            "who has rows in a pass under way, or a picture in the decoder, keeps all pages until that is done"
        )
        assert self.pool.num_used + self.pool.num_free == self.pool.num_pages

    @invariant()
    def no_sequence_is_lost(self) -> None:
        alive = {sequence.request.request_id for sequence in self.everyone()}
        assert alive | set(self.ends) == set(self.names)
        assert not alive & set(self.ends)
        assert all(count == 1 for count in self.ends.values())
        assert len(self.scheduler.running) <= MAX_RUNNING

    @invariant()
    def branches_are_consistent(self) -> None:
        for sequence in self.everyone():
            for context in (sequence.full, *sequence.branches):
                assert context.kv_len == (context.marks[-1].kv_len if context.marks else 0) + context.open_rows
                assert all(node.kv_len <= context.kv_len for node in context.nodes)
            if sequence.phase is Phase.DENOISE and not sequence.is_in_flight:
                assert sequence.image is not None
                for context, held in zip((sequence.full, *sequence.branches), sequence.image.plan.segments, strict=True):
                    assert [mark.uid for mark in context.marks] == [segment.uid for segment in held]
                assert 0 <= sequence.image.step < len(sequence.image.steps)

    @invariant()
    def canon_is_never_rewritten(self) -> None:
        for sequence in self.everyone():
            history, text_ids = self.canon.get(sequence.sequence_id, ([], []))
            assert sequence.history[: len(history)] == history
            assert sequence.text_ids[: len(text_ids)] == text_ids
            self.canon[sequence.sequence_id] = (list(sequence.history), list(sequence.text_ids))

    def everyone(self) -> list[Sequence]:
        return self.scheduler.sequences if self.names else []

    def teardown(self) -> None:
        """Whatever is left ends by itself, and every page comes back."""
        if not self.names or not self.is_sound:
            return
        for _ in range(MAX_STEPS_TO_DRAIN):
            if not self.scheduler.has_work:
                break
            self.one_step(fails=False)
        assert not self.scheduler.has_work
        assert self.pool.num_used == 0
        assert all(grammar.is_closed for grammar in self.grammars.started), "whoever compiles them works for nobody"
        assert sorted(self.ends) == sorted(self.names)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=max(NUM_HISTORIES, settings().max_examples),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
