"""The scheduler: which rows share the next step, and what the last step's results mean for each sequence.

Pure Python: `schedule` makes a `Batch`, the runner executes it, `commit` takes in the result. Each step takes the decode rows, then
denoise steps and prompt chunks in the order of `fairness`, as far as `budget` goes. A long pass may be `is_divisible`: then
`schedule_between` makes the decode steps that are let through it, or made beside it, before it is committed. Where pictures stand aside for
words (`words_first`), neither holds rows of a picture. Being let in is `admission`, pages `reservations`, results `commit`.

No step is empty while there is work, unless it ends a sequence or lets one take over what the cache holds, or all that is left waits for
pictures in the decoder or an encoder beside the steps, or for grammars. Other work is held back only for decode rows that are in the step
themselves, and for no longer than `fairness` allows, so a step without any serves the first in its order that can have pages. The oldest
can: whoever is younger gives them up for it (`reservations`), and alone it goes on or ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from server.engine.admission import Admission
from server.engine.batch import Batch, BatchResult
from server.engine.beside_cost import StepCosts
from server.engine.budget import Goals, StepBudget
from server.engine.commit import Commit
from server.engine.cost_model import NO_LOAD
from server.engine.decode_pace import DecodePace
from server.engine.drain_rate import DrainRate
from server.engine.encodings import Encodings
from server.engine.fairness import Shares, is_overdue
from server.engine.grammar import NO_GRAMMARS, Grammars
from server.engine.in_decoder import InDecoder
from server.engine.loads import load_of_next_tokens
from server.engine.options import ModelFacts, SchedulerLimits
from server.engine.outputs import Outputs
from server.engine.pages import PagePool
from server.engine.prefix_cache import PrefixCache
from server.engine.reservations import Reservations
from server.engine.roster import Roster
from server.engine.rows import Draft, RowBuilder, is_decoding
from server.engine.run_ahead import Foresight
from server.engine.segments import total_rows
from server.engine.sequence import Lane, Phase, Sequence
from server.engine.turns import ForeignCanon, Refeed, Turns
from server.engine.words_first import WordsFirst
from server.messages import FinishReason, Request, TextClosed

SHORT_PROMPT_SHARE = 0.5
"""How much of the target a prompt chunk let through a long pass may take."""
LEAST_TURN_S = 1e-3
"""How long a long pass runs on at least where there was nothing to let through it: words may be due that wait for pages."""
POLL_S = 0.05
"""How long a long pass runs on before new messages are looked at, while nobody decodes."""


class Scheduler:
    """Owns every sequence and every page."""

    def __init__(
        self,
        pool: PagePool,
        facts: ModelFacts,
        limits: SchedulerLimits,
        refeed: Refeed,
        grammars: Grammars = NO_GRAMMARS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.costs = StepCosts(facts.share_of_steps)
        self.drain_rate = DrainRate()
        self.cache = PrefixCache(pool, facts.model_id, is_enabled=limits.has_prefix_cache)
        self._clock = clock
        self._shares = Shares()
        self._roster = Roster(pool, self.cache, self._shares, self.drain_rate, clock)
        self._turns = Turns(facts, refeed, grammars)
        self._pace = DecodePace(self.costs.beside)
        self._goals = Goals(limits, self.costs, self._pace, facts)
        self.words_first = WordsFirst(self.costs.alone)
        self.admission = Admission(self._roster, facts, limits)
        self._reservations = Reservations(self._roster)
        self.encodings = Encodings()
        self._rows = RowBuilder(facts, self._turns, self._reservations, self.cache, self.encodings)
        self._foresight = Foresight(self._roster, self._turns)
        self._commit = Commit(self._roster, self._turns)
        self.in_decoder = InDecoder(self._roster, self._commit)
        self._latest = Batch()
        self._failed: set[int] = set()
        self._hungry: Sequence | None = None
        self._next_id = self._step = self._prefix_queries = self._prefix_hits = 0
        self._began_s = self._last_step_s = clock()
        self.predicted_s = 0.0

    @property
    def has_work(self) -> bool:
        return not self._roster.is_empty

    @property
    def running(self) -> list[Sequence]:
        """The sequences that hold pages, in order of admission."""
        return list(self._roster.running.values())

    @property
    def sequences(self) -> list[Sequence]:
        """Every sequence that has not been answered in full, those waiting first."""
        return self._roster.sequences()

    @property
    def num_waiting(self) -> int:
        return len(self._roster.waiting)

    @property
    def num_preemptions(self) -> int:
        return self._reservations.num_preemptions

    def take_prefix_counts(self) -> tuple[int, int]:
        """Return the prompt rows looked up in the prefix cache since the last call, and those found."""
        counts = (self._prefix_queries, self._prefix_hits)
        self._prefix_queries = self._prefix_hits = 0
        return counts

    def submit(self, request: Request) -> None:
        """Queue a request; one that is refused is answered at once, by a FinishedOutput with reason ERROR."""
        if self._roster.is_empty:
            self.drain_rate.begin_stretch()
            idle_since_s, self._last_step_s = self._last_step_s, self._clock()
            self.words_first.note_idle(self._last_step_s - idle_since_s)
        sequence = self._turns.start(self._next_id, request)
        self._next_id += 1
        try:
            finish = self._turns.replay(sequence)
        except ForeignCanon as error:
            self.admission.turn_away(sequence, "server_error", str(error))
            return
        self.admission.take_in(sequence, self._turns.plan_first(sequence), self._clock())
        if finish is not None:
            self._roster.finish(sequence, finish)
        elif request.canon and not sequence.open_ids:
            # The other engine may have died between the last draw and saying so.
            self._roster.outputs.closed.append(TextClosed(request.request_id))

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> None:
        """End a request and free its pages; unknown or finished ids are ignored, since an abort may cross a finish."""
        self._roster.end(request_id, reason)

    def abort_all(self) -> None:
        """End every request."""
        for sequence in self._roster.sequences():
            self._roster.finish(sequence, FinishReason.ABORT)

    def fail(self, sequence_ids: list[int], code: str, message: str) -> None:
        """End the given sequences, whose step raised, with an error."""
        self._failed.update(sequence_ids)
        for sequence_id in sequence_ids:
            if sequence_id in self._roster.running:
                self._roster.finish(self._roster.running[sequence_id], FinishReason.ERROR, code, message)

    def forget(self, sequence_ids: list[int]) -> None:
        """Have the prefix cache forget what it has of the given sequences."""
        self._roster.forget(sequence_ids)

    def forget_service(self) -> None:
        """Forget how long steps take and who has had how much; for when nobody is there."""
        self._shares.forget()

    def take_outputs(self) -> Outputs:
        """Return what has happened since the last call."""
        return self._roster.take_outputs()

    def take_dropped(self) -> list[int]:
        """Return the sequences whose latents the runner may forget."""
        return self._roster.take_dropped()

    def schedule(self) -> Batch:
        """Choose the rows of the next step and reserve their pages."""
        self._begin_step()
        if self.do_words_go_first:
            words = self._draft([other for other in self._candidates() if other.lane is Lane.TEXT], self._decoding())
            if not words.batch.is_empty:
                return self._issue(words)
            # Words may want the very pages that a picture holds; then it has to go on.
            self._take_over()
        return self._issue(self._draft(self._candidates(), self._decoding()))

    def schedule_ahead(self, under_way: Batch) -> Batch:
        """Make the step that may begin before ``under_way`` has ended; empty where what it would hold cannot be foreseen."""
        if not self._foresight.covers(under_way):
            return Batch()
        began_s = self._began_s
        self._begin_step()
        self._began_s = began_s
        if self._hungry is not None:
            return Batch()
        self._commit.move_on_ahead(under_way)
        candidates = [other for other in self._foresight.candidates() if not self.encodings.is_awaited(other)]
        decoding = self._foresight.decoding()
        if self.do_words_go_first and any(other.lane is Lane.TEXT for other in [*candidates, *decoding]):
            candidates = [other for other in candidates if other.lane is Lane.TEXT]
        return self._issue(self._draft(candidates, decoding, may_divide=False))

    def without_void(self, batch: Batch) -> Batch:
        """Return the part of a step whose rows are still wanted, now that the one it ran ahead of has been committed."""
        return self._commit.without_void(batch)

    def _candidates(self) -> list[Sequence]:
        return [other for other in self.running if other.can_be_served and not self.encodings.is_awaited(other)]

    def _draft(self, candidates: list[Sequence], decoding: list[Sequence], *, may_divide: bool = True) -> Draft:
        """Choose rows for everyone who decodes, and for those of the candidates whose turn it is; nothing where that calls for a long
        pass and none may begin."""
        draft = Draft(self._step + bool(candidates))
        if not candidates:
            self._add_decodes(decoding, draft)
            return draft
        self._shares.settle(self._roster.running.values())
        candidates = self._shares.order(candidates, draft.step)
        riding, hungry = decoding, next((other for other in candidates if other is self._hungry), None)
        if hungry is not None:
            candidates = [hungry, *(other for other in candidates if other is not hungry)]
            riding = [other for other in decoding if other.sequence_id < hungry.sequence_id]
        decodes, waited_s = load_of_next_tokens(decoding), self._waited_s(decoding)
        first = self._rows.atomic_loads(candidates[0])
        if self._goals.should_divide(first, decodes, len(decoding), waited_s):
            if not may_divide:
                return draft
            draft.batch.is_divisible = True
            self._fill(candidates, draft, self._goals.divided_budget(decodes, len(decoding)))
            if not draft.batch.is_empty:
                draft.batch.bits_per_layer = self._goals.bits_per_layer(draft.batch.load, decodes, len(decoding))
                return draft
            draft = Draft(draft.step)
        # Words that wait for pages set no pace: the work that would be held up for them may hold those very pages.
        riding = self._add_decodes(riding, draft)
        # Those who are left out of a step wait for it too.
        num_waiting, waited_s = (len(riding), self._waited_s(riding)) if hungry is None else (len(decoding), 0.0)
        must_wait = riding and not is_overdue(candidates[0], draft.step) and self._goals.must_wait(first, draft.batch.load, waited_s)
        if not must_wait:
            self._fill(candidates, draft, self._goals.budget(draft.batch.load, num_waiting, waited_s))
        return draft

    def schedule_between(self, next_bit_s: float) -> Batch:
        """Make the step that is let through a long pass before its next bit, which takes about ``next_bit_s`` seconds, or beside it now.

        Decode rows when they would be late after that bit or words go first anyway, else short prompts, else nothing.
        """
        self._begin_step()
        draft = Draft(self._step)
        draft.batch.is_beside = self.costs.are_beside
        decoding, now_s = self._decoding(), self._clock()
        due_s = self._due_s(decoding) if decoding else now_s + self._goals.target_s(NO_LOAD)
        if decoding and (now_s + next_bit_s >= due_s or self.do_words_go_first):
            self._add_decodes(decoding, draft)
            return self._issue(draft)
        prompts = [other for other in self._roster.running.values() if other.can_be_served and other.is_at_prompt_text]
        seconds = min(due_s - now_s, SHORT_PROMPT_SHARE * self._goals.target_s(load_of_next_tokens(decoding)))
        if prompts and self._goals.has_room_for_prompt(seconds):
            self._fill(self._shares.order(prompts, self._step), draft, self._goals.prompt_budget(seconds))
        return self._issue(draft)

    def bit_s(self, batch: Batch) -> float:
        """Return how long one bit of ``batch``, a long pass, should take."""
        return self._goals.bit_s(batch.load, batch.bits_per_layer)

    def next_pause_s(self) -> float:
        """Return until when a long pass may run on before `schedule_between` should be asked again: for a moment, if that had nothing."""
        decoding, now_s = self._decoding(), self._clock()
        if not decoding:
            return now_s + POLL_S
        due_s = now_s if self.do_words_go_first and self.costs.are_beside else self._due_s(decoding)
        return max(due_s, now_s + LEAST_TURN_S) if self._latest.is_empty else due_s

    def _due_s(self, decoding: list[Sequence]) -> float:
        """Return when those who write should have their next step: at once while there is time and only prompts would go on meanwhile."""
        last_s = self._clock() - self._waited_s(decoding)
        has_time = self.words_first.has_time and not self._roster.pictures()
        return last_s if has_time else self._goals.due_s(load_of_next_tokens(decoding), last_s)

    @property
    def are_pictures_held(self) -> bool:
        """Whether a picture's pass that is left for steps stands aside; one beside them goes on with what they leave."""
        return self.do_words_go_first and not self.costs.are_beside

    @property
    def do_words_go_first(self) -> bool:
        """Whether there are pictures and they stand aside, for words or for prompts of words."""
        pictures = self._roster.pictures()
        if not (pictures and self._goals.has_target and any(other.lane is Lane.TEXT for other in self._roster.running.values())):
            return False
        return self.words_first.holds(pictures, self._step)

    def _begin_step(self) -> None:
        """End what has expired, let in who fits, and let prompts take over what the prefix cache holds."""
        now_s = self._began_s = self._clock()
        self.encodings.look()
        self.admission.expire(now_s)
        self._hungry = self._reservations.starving()
        for sequence in self.admission.admit(self._step) if self._hungry is None else []:
            sequence.last_result_s = now_s
            self._prefix_queries += total_rows(sequence.history)
        for sequence in self._roster.running.values():
            if sequence.phase is Phase.DECODE and not sequence.can_draw_token:
                sequence.last_result_s = now_s
        self._take_over()

    def _take_over(self) -> None:
        """Let prompts take over what the prefix cache holds, and move on those that miss nothing more."""
        for sequence in list(self._roster.running.values()):
            if sequence.phase is Phase.PREFILL and not sequence.is_in_flight:
                self._catch_up(sequence)
                self.encodings.ask(sequence)

    def _catch_up(self, sequence: Sequence) -> None:
        """Let a sequence take over from the prefix cache what it can, also for the branches that this lets it begin."""
        fills = None
        while sequence.phase is Phase.PREFILL and sequence.fills is not fills:
            fills, start = sequence.fills, sequence.full.kv_len
            num_rows = self._rows.catch_up(sequence)
            self._prefix_hits += num_rows
            if num_rows and not (sequence.num_preemptions or sequence.text_ids or sequence.num_images):
                sequence.count_cached(start, start + num_rows)
            self._commit.move_on(sequence)

    def _decoding(self) -> list[Sequence]:
        """List the sequences whose next row is a decode row, the oldest first: it is served even when pages are short."""
        decoding = [other for other in self._roster.running.values() if is_decoding(other)]
        decoding.sort(key=lambda other: other.sequence_id)
        return decoding

    def _waited_s(self, decoding: list[Sequence]) -> float:
        """Return how long it is since the token that is longest ago, where none is on its way."""
        waiting = [sequence.last_result_s for sequence in decoding if not sequence.is_in_flight]
        return self._clock() - min(waiting) if waiting and self._goals.has_target else 0.0

    def _add_decodes(self, decoding: list[Sequence], draft: Draft) -> list[Sequence]:
        """Add the decode rows of those whom there are pages for; return them."""
        for sequence in decoding:
            if sequence.sequence_id in self._roster.running:
                self._rows.add_decode(sequence, draft)
        self._rows.close_decodes(draft)
        return [sequence for sequence in decoding if sequence.sequence_id in draft.served]

    def _fill(self, candidates: list[Sequence], draft: Draft, budget: StepBudget) -> None:
        """Add denoise steps and prompt chunks in the given order until the budget is used up."""
        for sequence in candidates:
            if budget.is_spent:
                break
            if sequence.sequence_id not in self._roster.running:
                continue
            budget.is_shared = not budget.is_untouched
            add = self._rows.add_denoise if sequence.phase is Phase.DENOISE else self._rows.add_prefill
            if add(sequence, draft, budget):
                sequence.last_served_step = draft.step
        draft.batch.load = budget.load

    def _issue(self, draft: Draft) -> Batch:
        """Mark everyone with rows in the batch as in flight until `commit`. Only steps that are made count against patience."""
        for sequence_id in draft.served:
            self._roster.running[sequence_id].num_in_flight += 1
        self._step = self._step if draft.batch.is_empty else draft.step
        self._latest = draft.batch
        return draft.batch

    def commit(self, batch: Batch, result: BatchResult) -> None:
        """Take in the result of ``batch``: tokens, finished Euler steps, pictures; move every sequence on."""
        sequence_ids = batch.sequence_ids()
        self._settle_claims(batch)
        self._roster.land(sequence_ids)
        self._failed = {sequence_id for sequence_id in self._failed if self._roster.is_leaving(sequence_id)}
        self._account(batch, result)
        self._commit.take_in(batch, result)
        now_s = self._last_step_s = self._clock()
        if not batch.load.mixed and batch.is_beside is self.costs.are_beside:
            self._pace.note(batch.load, now_s - self._began_s)
        self._began_s = now_s
        for sequence_id in sequence_ids:
            sequence = self._roster.running.get(sequence_id)
            if sequence is None:
                continue
            sequence.last_result_s = now_s
            if not sequence.is_in_flight:
                self._commit.move_on(sequence)
            elif sequence.phase is Phase.DECODE:
                self._latest.claim(sequence_id, self._rows.claims_of_decode(sequence))

    def _settle_claims(self, batch: Batch) -> None:
        for sequence_id, claims in batch.claims.items():
            self.cache.settle(claims, are_filled=sequence_id not in self._failed)

    def _account(self, batch: Batch, result: BatchResult) -> None:
        """Teach the cost model, and put the step's time on the accounts of those who had rows in it."""
        self.predicted_s = self.costs.foreseen_s(batch)
        self.costs.observe(batch, result.execute_s)
        seconds = self.costs.machine_s(batch, result.execute_s or self.predicted_s)
        if batch.load.mixed:
            self._shares.note_step(seconds)
        tokens = batch.query_tokens()
        self._roster.charge(tokens, seconds)
        pictures = self._roster.pictures()
        if not any(picture.sequence_id in tokens for picture in pictures):
            has_long_pass = any(other.is_in_flight and other.phase is not Phase.VAE for other in self.running)
            self.words_first.note(pictures, seconds if has_long_pass or pictures else 0.0)
