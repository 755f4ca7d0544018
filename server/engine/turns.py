"""The interleaving loop of one sequence: when a text begins and ends, when a picture is drawn, and what follows it (spec 8.3).

Pure decisions on a `Sequence`; the scheduler calls them between steps. Where the specification leaves a choice to the checkpoint, the
family profile makes it; where the request forces a mode, the mode does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kernels.token_counts import NO_TOKENS
from model.flow import schedule
from model.profile import AfterImage, AfterTextEnd, BeginOfImage
from server.engine.batch import Draw
from server.engine.grammar import Grammars
from server.engine.guidance import BranchPlan, plan_branches
from server.engine.image_steps import plan_steps
from server.engine.options import ModelFacts
from server.engine.segments import ContextSegment, PictureSegment, TextTokens
from server.engine.sequence import AfterFill, ImageTask, Phase, Sequence
from server.messages import FinishReason, ImageSegment, OutputMode, Picture, Request, TextSegment, Usage

Refeed = Callable[[Picture], ImageSegment]
"""Makes a drawn picture an input picture: the resizes of spec 3.3."""

NEGATIVE_UID = 0
"""Segment number of a negative prompt, which is in no history."""
NUM_TEXT_MARKERS = 2
"""BOS and EOS: the rows of an empty text."""


class ForeignCanon(Exception):
    """What another engine has made of a request is not what this one could have made of it."""

    def __init__(self) -> None:
        super().__init__("another server began this answer in a way that this one cannot go on from")


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What a drawn token did. ``finish`` is set when the answer is complete; ``closed_text`` when a text turn ended."""

    is_answer_token: bool = False
    closed_text: bool = False
    finish: FinishReason | None = None


GOES_ON = TurnEnd(is_answer_token=True)
"""What nearly every token did."""


class Turns:
    """The decisions of the interleaving loop, for one model."""

    def __init__(self, facts: ModelFacts, refeed: Refeed, grammars: Grammars) -> None:
        self._facts = facts
        self._refeed = refeed
        self._grammars = grammars

    def start(self, sequence_id: int, request: Request) -> Sequence:
        """Make a sequence whose history is the prompt."""
        sequence = Sequence(sequence_id, request)
        for segment in request.segments:
            if isinstance(segment, TextSegment):
                sequence.append_text((self._facts.bos_id, *segment.token_ids, self._facts.eos_id))
            else:
                sequence.append_picture(segment, self._facts.latent_stride, self._facts.vit_stride)
        sequence.after_fill = AfterFill.BEGIN_IMAGE if request.mode is OutputMode.IMAGE else AfterFill.BEGIN_TEXT
        text_rows = sum(s.num_rows for s in sequence.history if isinstance(s, TextTokens))
        image_rows = sum(s.num_rows for s in sequence.history if isinstance(s, PictureSegment))
        if request.sampling.grammar is not None:
            sequence.grammar = self._grammars.start(request.sampling.grammar)
        sequence.usage = Usage(prompt_text_tokens=text_rows, prompt_image_tokens=image_rows)
        return sequence

    def replay(self, sequence: Sequence) -> FinishReason | None:
        """Bring a fresh sequence to where its request's canon ends, as if it had been drawn here; say if the answer ends there.

        Raises:
            ForeignCanon: it could not have been: the other engine had another model, or room for longer answers.
        """
        end = TurnEnd()
        for item in sequence.request.canon:
            self._begin_turn(sequence)
            if end.finish is not None or isinstance(item, Picture) is not (sequence.image is not None):
                raise ForeignCanon
            if isinstance(item, Picture):
                end = self.on_picture(sequence, item)
            elif sequence.phase is Phase.DECODE:
                end = self.on_text_token(sequence, item)
            else:
                end = self.on_decision(sequence, item)
        sequence.fills = []
        sequence.phase = Phase.WAITING
        return end.finish

    def _begin_turn(self, sequence: Sequence) -> None:
        """Do what follows a filled context, where it needs no forward pass; the contexts themselves are filled later."""
        if sequence.phase is Phase.DECODE or sequence.image is not None:
            return
        if sequence.after_fill is AfterFill.BEGIN_TEXT:
            self.begin_text(sequence)
        elif sequence.after_fill is AfterFill.BEGIN_IMAGE:
            self.begin_image(sequence)

    def begin_text(self, sequence: Sequence) -> None:
        """Open a text turn: the next decode row feeds BOS."""
        sequence.open_ids = [self._facts.bos_id]
        sequence.turn_limit = len(sequence.text_ids) + self._turn_tokens(sequence)
        sequence.phase = Phase.DECODE

    def _turn_tokens(self, sequence: Sequence) -> int:
        """Share the tokens left over the texts still to come when pictures alternate with them; else allow all of them."""
        if sequence.request.mode is OutputMode.ALTERNATE and sequence.images_left > 0:
            num_texts = sequence.images_left + int(self._ends_with_text(sequence))
            return -(-sequence.tokens_left // num_texts)
        return sequence.tokens_left

    def _ends_with_text(self, sequence: Sequence) -> bool:
        return sequence.request.mode is OutputMode.ALTERNATE and not sequence.request.generated_text_is_thought

    def begin_image(self, sequence: Sequence) -> ImageTask:
        """Plan the next picture: its timesteps and the contexts its branches need."""
        params = sequence.request.image
        times, dts = schedule(params.num_timesteps, params.timestep_shift)
        timesteps = [float(t) for t in times]
        plan = self._plan_branches(sequence, timesteps)
        steps = plan_steps(params, timesteps, [float(dt) for dt in dts], plan)
        sequence.image = image = ImageTask(sequence.num_images, steps, plan)
        return image

    def _plan_branches(self, sequence: Sequence, timesteps: list[float]) -> BranchPlan:
        params = sequence.request.image
        negative_ids = params.negative_token_ids
        negative = None if negative_ids is None else TextTokens(NEGATIVE_UID, (self._facts.bos_id, *negative_ids, self._facts.eos_id))
        counts_dropped = self._facts.profile.dropped_image_advances_position
        return plan_branches(sequence.history, params, timesteps, negative, counts_dropped_images=counts_dropped)

    def plan_first(self, sequence: Sequence) -> list[list[ContextSegment]]:
        """Plan the picture of a waiting sequence that draws at once; return what each context holds that it must have whole before."""
        if sequence.after_fill is not AfterFill.BEGIN_IMAGE:
            return [sequence.history]
        return self.begin_image(sequence).plan.segments

    def must_end(self, sequence: Sequence) -> bool:
        """Tell whether the token under way is the last of its text, whichever it is."""
        return len(sequence.text_ids) + 1 >= sequence.turn_limit or sequence.full.rope_pos >= self._facts.max_positions

    def draw_for(self, sequence: Sequence, *, is_ahead: bool = False) -> Draw:
        """Say how the token after the sequence's next row is drawn, in a text or at a decision between turns.

        Where it ``is_ahead``, the token that the row feeds is under way, and will be one more of the text's.
        """
        request = sequence.request
        sampling = request.sampling
        is_text, num_ahead = sequence.phase is Phase.DECODE, int(is_ahead)
        suppressed: tuple[int, ...] = () if self._may_ask_for_image(sequence, in_text=is_text) else (self._facts.boi_id,)
        if is_text and (sampling.ignore_eos or len(sequence.text_ids) + num_ahead < sampling.min_tokens):
            suppressed = (*suppressed, *self._facts.end_ids, self._facts.eos_id)
        written = sequence.counted.so_far() if is_text and sampling.has_penalty else NO_TOKENS
        grammar = sequence.grammar if is_text else None
        index, wants_logprob = sequence.num_draws + num_ahead, sampling.logprobs is not None
        return Draw(sampling, index, suppressed, written, wants_logprob, grammar, is_ahead)

    def _may_ask_for_image(self, sequence: Sequence, *, in_text: bool) -> bool:
        """Tell whether begin-of-image may be drawn: the answer then has a picture left, or ends there, as too long."""
        if sequence.request.mode is not OutputMode.INTERLEAVED:
            return False
        if sequence.images_left <= 0 and not sequence.request.image.ends_at_last_image:
            return False
        allowed = BeginOfImage.IN_TEXT if in_text else BeginOfImage.AFTER_TEXT_END
        return self._facts.profile.begin_of_image in (allowed, BeginOfImage.ANYWHERE)

    def on_text_token(self, sequence: Sequence, token_id: int) -> TurnEnd:
        """Take in a token drawn inside a text: it goes on, or the turn ends by a stop token, begin-of-image or a limit."""
        sequence.num_draws += 1
        if token_id == self._facts.boi_id and self._may_ask_for_image(sequence, in_text=True):
            if sequence.images_left <= 0:
                return TurnEnd(closed_text=True, finish=FinishReason.LENGTH)
            return self._close_text(sequence, AfterFill.BEGIN_IMAGE)
        if token_id == self._facts.eos_id:
            return self._on_text_end(sequence, FinishReason.STOP)
        if token_id in self._facts.end_ids:
            return self._finish_or_draw_on(sequence, FinishReason.STOP)
        sequence.open_ids.append(token_id)
        sequence.text_ids.append(token_id)
        if sequence.request.sampling.has_penalty:
            sequence.counted.add(token_id)
        if sequence.grammar is not None:
            sequence.grammar.accept(token_id)
        if len(sequence.text_ids) < sequence.turn_limit and sequence.full.rope_pos < self._facts.max_positions:
            return GOES_ON
        return replace(self._finish_or_draw_on(sequence, FinishReason.LENGTH), is_answer_token=True)

    def _on_text_end(self, sequence: Sequence, reason: FinishReason) -> TurnEnd:
        """End a text by EOS: in a free answer the model may be asked what follows."""
        if sequence.request.mode is not OutputMode.INTERLEAVED:
            return self._finish_or_draw_on(sequence, reason)
        if self._facts.profile.after_text_end is AfterTextEnd.FINISH or _is_second_empty_text(sequence):
            return TurnEnd(closed_text=True, finish=reason)
        return self._close_text(sequence, AfterFill.DECIDE)

    def _finish_or_draw_on(self, sequence: Sequence, reason: FinishReason) -> TurnEnd:
        """End a text for good, unless the request's mode owes a picture after it."""
        if sequence.request.mode is OutputMode.ALTERNATE and sequence.images_left > 0:
            return self._close_text(sequence, AfterFill.BEGIN_IMAGE)
        return TurnEnd(closed_text=True, finish=reason)

    def _close_text(self, sequence: Sequence, after_fill: AfterFill) -> TurnEnd:
        token_ids = (*sequence.open_ids, self._facts.eos_id)
        sequence.open_ids = []
        sequence.append_text(token_ids, is_thought=sequence.request.generated_text_is_thought)
        sequence.fill_history(after_fill)
        return TurnEnd(closed_text=True)

    def on_decision(self, sequence: Sequence, token_id: int) -> TurnEnd:
        """Take in the token drawn after a closed text or a picture: a picture, another text, or the end (spec 8.3, steps 2 and 3)."""
        sequence.num_draws += 1
        if token_id == self._facts.boi_id:
            sequence.after_fill, num_left = AfterFill.BEGIN_IMAGE, sequence.images_left
        elif token_id == self._facts.bos_id:
            sequence.after_fill, num_left = AfterFill.BEGIN_TEXT, sequence.tokens_left
        else:
            return TurnEnd(finish=FinishReason.STOP)
        has_room = num_left > 0 and sequence.full.rope_pos < self._facts.max_positions
        return TurnEnd() if has_room else TurnEnd(finish=FinishReason.LENGTH)

    def on_picture(self, sequence: Sequence, picture: Picture) -> TurnEnd:
        """Count a finished picture and either end the answer or feed the picture back into the context."""
        assert sequence.image is not None
        params = sequence.request.image
        num_tokens = (params.height // self._facts.latent_stride) * (params.width // self._facts.latent_stride)
        usage = sequence.usage
        sequence.usage = replace(usage, num_images=usage.num_images + 1, completion_image_tokens=usage.completion_image_tokens + num_tokens)
        sequence.num_images += 1
        sequence.image = None
        following = self._after_picture(sequence)
        if following is None:
            return TurnEnd(finish=FinishReason.STOP)
        if following is not AfterFill.BEGIN_IMAGE and sequence.tokens_left <= 0:
            return TurnEnd(finish=FinishReason.LENGTH)
        sequence.append_picture(self._refeed(picture), self._facts.latent_stride, self._facts.vit_stride)
        sequence.fill_history(following)
        return TurnEnd()

    def _after_picture(self, sequence: Sequence) -> AfterFill | None:
        """Say what follows a picture; None when nothing does."""
        if sequence.request.mode is OutputMode.IMAGE:
            return AfterFill.BEGIN_IMAGE if sequence.images_left > 0 else None
        if sequence.request.mode is OutputMode.ALTERNATE:
            if sequence.images_left > 0 and (sequence.tokens_left <= 0 or sequence.request.generated_text_is_thought):
                return AfterFill.BEGIN_IMAGE
            return AfterFill.BEGIN_TEXT if sequence.images_left > 0 or self._ends_with_text(sequence) else None
        match self._facts.profile.after_image:
            case AfterImage.FINISH:
                return None
            case AfterImage.START_TEXT:
                return AfterFill.BEGIN_TEXT
            case AfterImage.MODEL_DECIDES:
                return AfterFill.DECIDE


def _is_second_empty_text(sequence: Sequence) -> bool:
    """Tell whether the model writes nothing twice in a row, which would go on for ever without using up its tokens."""
    last = sequence.history[-1]
    return len(sequence.open_ids) == 1 and isinstance(last, TextTokens) and last.num_rows == NUM_TEXT_MARKERS
