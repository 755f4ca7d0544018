"""From what a client asks to what the engine runs: text to tokens, pictures to pixels, defaults filled in, every bound checked.

After this the engine trusts the request. The bounds of single fields are the HTTP layer's; here are those that need the model: token
ids, picture sizes, what the context holds.
"""

from __future__ import annotations

import secrets
import uuid
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from model.guidance_rules import GuidanceMode
from model.profile import THINK_IMAGE_PROMPT, THINK_TEXT_PROMPT, Family, SamplerDefaults, ToolStyle
from server.errors import ContextLengthExceeded, InvalidValue, UnsupportedParameter
from server.messages import (
    EngineReady,
    ImageParams,
    ImageSegment,
    OutputMode,
    Request,
    SamplingParams,
    Segment,
    TextSegment,
)
from server.serving.asks import Ask, Effort, Message, Modality, ParamNames, PictureChoices, PicturePart, TextChoices, TextPart
from server.serving.context_budget import ContextBudget, prompt_need
from server.serving.grammar_writers import GrammarWriters
from server.serving.interest import Interest
from server.serving.picture_intake import PictureIntake
from server.serving.reply_reader import Thinking
from server.serving.served_model import ServedModel
from server.serving.tools import text_ids, tool_list

ValueT = TypeVar("ValueT")

SEED_MASK = (1 << 63) - 1
"""Seeds are non-negative 63-bit numbers inside; a client's negative one wraps round."""

DEFAULT_MAX_IMAGES = 1
DEFAULT_MAX_IMAGES_INTERLEAVED = 8
"""How many pictures a model that decides by itself may draw when the client does not say."""

FAR_TOO_LONG = 4
"""How many times the tokens of the context a prompt must have to be refused before all of it is read: far more than cutting it can add."""
LOOK_CHARS = 1 << 14
"""How much of such a text is read at once."""

NUM_WAITING_THREADS = 32
"""In which asks wait for pictures, and as many in which others wait for forms to be read; more of them wait for a thread."""


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """Bounds of one prompt beyond the context length."""

    max_pictures: int = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests of one ask, one for each answer wanted; they differ in id and seeds alone. The tokens of their prompt are counted as its
    usage will say, pictures in it included."""

    requests: list[Request]
    num_prompt_tokens: int
    thinking: Thinking


class Preparer:
    """Makes engine requests for one model. Slow (it waits for pictures to be decoded): call it in the threads for an ask."""

    def __init__(self, model: ServedModel, limits: PromptLimits, pictures: PictureIntake, grammars: GrammarWriters) -> None:
        self._model = model
        self._limits = limits
        self._pictures = pictures
        self._grammars = grammars
        self._picture_threads = ThreadPoolExecutor(NUM_WAITING_THREADS, thread_name_prefix="pictures")
        self._form_threads = ThreadPoolExecutor(NUM_WAITING_THREADS, thread_name_prefix="forms")

    def threads_for(self, ask: Ask) -> Executor | None:
        """Return the threads for an ask that waits for others' work, so that it holds up none but its like; None for one that computes."""
        if any(isinstance(part, PicturePart) for message in ask.messages for part in message.parts):
            return self._picture_threads
        return self._form_threads if ask.text_form is not None or ask.tool_use is not None else None

    def close(self) -> None:
        """End the processes that read pictures and schemas."""
        for threads in (self._picture_threads, self._form_threads):
            threads.shutdown(wait=False, cancel_futures=True)
        self._pictures.close()
        self._grammars.close()

    def prepare(self, ask: Ask, ready: EngineReady, interest: Interest) -> Plan:
        """Return the engine's requests for ``ask``.

        Raises:
            InvalidRequest: one of its kinds, naming the field and the bound.
            Overloaded: whoever reads its pictures or its form is busy.
            NobodyWaits: the ``interest`` in it is over.
        """
        self._refuse_tools_where_unknown(ask)
        modalities = self._modalities(ask)
        draws = Modality.IMAGE in modalities
        _refuse_contradictions(ask, modalities)
        segments = self._segments(ask, min(ready.max_positions, ready.max_context_rows), interest, draws=draws)
        mode = self._mode(ask, modalities)
        image = self._image_params(ask, segments)
        sampling = replace(self._sampling(ask.text), grammar=self._grammars.grammar(ask, interest))
        request = Request(
            request_id="",
            segments=segments,
            mode=mode,
            sampling=sampling,
            image=image,
            generated_text_is_thought=ask.thinks and mode is OutputMode.ALTERNATE,
            wants_progress=ask.wants_progress,
            tenant=ask.tenant,
            user=ask.user,
            weight=ask.weight,
            priority=ask.priority,
        )
        fitted = ContextBudget(self._model.config, ready).fit(request, ask)
        num_prompt_tokens = prompt_need(segments, self._model.config).rows
        return Plan([self._numbered(fitted, ask, index) for index in range(ask.n)], num_prompt_tokens, _thinking(ask, mode))

    def num_prompt_tokens(self, ask: Ask, interest: Interest) -> int:
        """Return how many tokens the prompt of ``ask`` has, as its answer's usage would say, be there room for them or not.

        Raises:
            InvalidRequest, Overloaded, NobodyWaits: see `prepare`.
        """
        self._refuse_tools_where_unknown(ask)
        draws = Modality.IMAGE in self._modalities(ask)
        segments = self._segments(ask, self._model.config.llm.max_positions, interest, draws=draws)
        return prompt_need(segments, self._model.config).rows

    def _refuse_tools_where_unknown(self, ask: Ask) -> None:
        """Refuse tools, and talk of them in the history, where the model was never taught any."""
        if self._model.profile.tools is not ToolStyle.NONE:
            return
        spoken = [message for message in ask.messages if any(isinstance(part, TextPart) and part.has_call_tags for part in message.parts)]
        param = "tools" if ask.tool_use is not None else spoken[0].param if spoken else None
        if param is not None:
            raise UnsupportedParameter(f"{param}: this model calls no tools; leave the field out.", param)

    def _modalities(self, ask: Ask) -> frozenset[Modality]:
        if ask.modalities is not None:
            return ask.modalities
        if ask.text_form is not None or ask.tool_use is not None:
            return frozenset({Modality.TEXT})
        is_interleaved = self._model.profile.family is Family.INTERLEAVED
        return frozenset({Modality.TEXT, Modality.IMAGE}) if is_interleaved else frozenset({Modality.TEXT})

    def _mode(self, ask: Ask, modalities: frozenset[Modality]) -> OutputMode:
        if Modality.IMAGE not in modalities:
            return OutputMode.TEXT
        if Modality.TEXT not in modalities:
            return OutputMode.ALTERNATE if ask.thinks else OutputMode.IMAGE
        return OutputMode.INTERLEAVED if self._model.profile.family is Family.INTERLEAVED else OutputMode.ALTERNATE

    def _refuse_far_too_long(self, ask: Ask, told: list[TextPart], held: int) -> None:
        """Refuse texts that cannot fit by far: to read them all, only to count what is too much, would take minutes.

        ``told`` stands before the messages; the context holds ``held`` tokens.
        """
        said = [part for message in ask.messages for part in message.parts if isinstance(part, TextPart)]
        texts = [part.text for part in [*told, *said]]
        if sum(map(len, texts)) <= FAR_TOO_LONG * held:
            return
        num_tokens = 0
        for piece in (text[start : start + LOOK_CHARS] for text in texts for start in range(0, len(text), LOOK_CHARS)):
            num_tokens += len(self._model.tokenizer.encode(piece))
            if num_tokens > FAR_TOO_LONG * held:
                param = ask.names.messages
                message = f"{param}: the texts have more than {FAR_TOO_LONG * held} tokens, the context holds {held}. Shorten the prompt."
                raise ContextLengthExceeded(message, param)

    def _segments(self, ask: Ask, held: int, interest: Interest, *, draws: bool) -> list[Segment]:
        """Turn messages into segments: there is no chat template (spec 5.1), each text is one segment, each picture another.

        The context holds ``held`` tokens.
        """
        num_pictures = sum(isinstance(part, PicturePart) for message in ask.messages for part in message.parts)
        if num_pictures > self._limits.max_pictures:
            text = f"{ask.names.messages}: {num_pictures} pictures; at most {self._limits.max_pictures} are read."
            raise InvalidValue(text, ask.names.messages)
        told = [TextPart(THINK_IMAGE_PROMPT if draws else THINK_TEXT_PROMPT)] if ask.thinks else []
        told += [] if ask.tool_use is None else [tool_list(ask.tool_use.tools)]
        self._refuse_far_too_long(ask, told, held)
        segments = [segment for part in told for segment in self._joined([part])]
        for message in ask.messages:
            segments += self._message_segments(message, interest, draws=draws)
        if not segments:
            raise InvalidValue(f"{ask.names.messages}: the prompt is empty; at least one text or picture is needed.", ask.names.messages)
        return segments

    def _message_segments(self, message: Message, interest: Interest, *, draws: bool) -> list[Segment]:
        segments: list[Segment] = []
        texts: list[TextPart] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                texts.append(part)
                continue
            segments += self._joined(texts)
            texts = []
            segments.append(self._pictures.segment(part, interest, draws=draws))
        return segments + self._joined(texts)

    def _joined(self, texts: list[TextPart]) -> list[Segment]:
        """Make one segment of neighbouring texts; nothing of nothing."""
        token_ids = text_ids(texts, self._model.tokenizer)
        return [TextSegment(token_ids)] if token_ids else []

    def _sampling(self, text: TextChoices) -> SamplingParams:
        vocab_size = self._model.config.llm.vocab_size
        for token_id in text.logit_bias:
            if token_id >= vocab_size:
                raise InvalidValue(f"logit_bias: there is no token {token_id}; ids are 0 to {vocab_size - 1}.", "logit_bias")
        plain = SamplingParams()
        return SamplingParams(
            # A top_p of 0: the fewest likeliest tokens whose probabilities add up to it are the first one alone.
            temperature=0.0 if text.top_p == 0 else _or(text.temperature, plain.temperature),
            # -1 is off too, as vLLM and SGLang write it.
            top_k=max(0, _or(text.top_k, plain.top_k)),
            top_p=text.top_p or plain.top_p,
            min_p=_or(text.min_p, plain.min_p),
            presence_penalty=_or(text.presence_penalty, plain.presence_penalty),
            frequency_penalty=_or(text.frequency_penalty, plain.frequency_penalty),
            repetition_penalty=_or(text.repetition_penalty, plain.repetition_penalty),
            logit_bias=text.logit_bias,
            max_tokens=_or(text.max_tokens, plain.max_tokens),
            min_tokens=_or(text.min_tokens, plain.min_tokens),
            ignore_eos=text.ignore_eos,
            logprobs=text.logprobs,
        )

    def _image_params(self, ask: Ask, segments: list[Segment]) -> ImageParams:
        """Fill in the family's defaults: those of an edit when the prompt holds a picture, else of text-to-image (spec 6.4)."""
        pictures = ask.pictures or PictureChoices()
        inputs = [segment for segment in segments if isinstance(segment, ImageSegment)]
        defaults = self._model.profile.defaults
        sampler = defaults.edit if inputs else defaults.text_to_image
        width, height = pictures.size or self._default_size(inputs)
        self._check_size(width, height, ask.names.size)
        params = ImageParams(
            height=height,
            width=width,
            num_timesteps=_or(pictures.num_timesteps, _num_timesteps(sampler, pictures.effort)),
            timestep_shift=_or(pictures.timestep_shift, sampler.timestep_shift),
            guidance=_or(pictures.guidance, defaults.guidance),
            max_images=_or(pictures.max_images, self._default_max_images(ask)),
            ends_at_last_image=pictures.max_images is None,
            num_previews=pictures.num_previews,
            step_cache=pictures.step_cache,
        )
        return self._guided(params, pictures, sampler, ask.names)

    def _guided(self, params: ImageParams, pictures: PictureChoices, sampler: SamplerDefaults, names: ParamNames) -> ImageParams:
        params = replace(
            params,
            text_scale=_or(pictures.text_scale, sampler.text_scale),
            image_scale=_or(pictures.image_scale, sampler.image_scale),
            interval=_or(pictures.interval, sampler.interval),
            renorm=_or(pictures.renorm, sampler.renorm),
            renorm_min=_or(pictures.renorm_min, sampler.renorm_min),
        )
        if not pictures.negative_prompt:
            return params
        if params.guidance is not GuidanceMode.BAGEL or params.text_scale <= 1.0:
            message = f"{names.negative_prompt}: needs guidance 'bagel' and a text_scale above 1; without them it has no effect."
            raise UnsupportedParameter(message, names.negative_prompt)
        return replace(params, negative_token_ids=self._model.tokenizer.encode(pictures.negative_prompt))

    def _default_size(self, inputs: list[ImageSegment]) -> tuple[int, int]:
        last = inputs[-1].vae if inputs else None
        if last is not None:
            return last.width, last.height
        height, width = self._model.profile.defaults.image_size
        return width, height

    def _check_size(self, width: int, height: int, param: str) -> None:
        config = self._model.config
        stride = config.latent_stride
        max_side = stride * config.latent_table_side
        if any(side % stride or not stride <= side <= max_side for side in (width, height)):
            message = f"{param}: {width}x{height} is not possible; both sides must be multiples of {stride} from {stride} to {max_side}."
            raise InvalidValue(message, param)

    def _default_max_images(self, ask: Ask) -> int:
        may_choose = self._model.profile.family is Family.INTERLEAVED and ask.modalities in (None, frozenset(Modality))
        return DEFAULT_MAX_IMAGES_INTERLEAVED if may_choose else DEFAULT_MAX_IMAGES

    def _numbered(self, request: Request, ask: Ask, index: int) -> Request:
        seed = secrets.randbits(63) if ask.seed is None else ask.seed
        image_seed = seed if ask.pictures is None or ask.pictures.seed is None else ask.pictures.seed
        return replace(
            request,
            request_id=uuid.uuid4().hex,
            sampling=replace(request.sampling, seed=(seed + index) & SEED_MASK),
            image=replace(request.image, seed=(image_seed + index) & SEED_MASK),
        )


def _refuse_contradictions(ask: Ask, modalities: frozenset[Modality]) -> None:
    """Refuse options that the wanted modalities would leave without effect."""
    if ask.pictures is not None and Modality.IMAGE not in modalities:
        raise UnsupportedParameter('image: the answer holds no pictures; add "image" to modalities, or leave the field out.', "image")
    if ask.text.logprobs is not None and Modality.TEXT not in modalities:
        raise UnsupportedParameter('logprobs: the answer holds no text; add "text" to modalities, or leave the field out.', "logprobs")
    _refuse_what_a_grammar_excludes(ask, modalities)
    if ask.thinks and len(modalities) > 1:
        raise UnsupportedParameter('think: works with modalities ["text"] or ["image"], not with both.', "think")
    if ask.text.min_tokens is not None and ask.text.max_tokens is not None and ask.text.min_tokens > ask.text.max_tokens:
        message = f"min_tokens: {ask.text.min_tokens} is more than the {ask.text.max_tokens} tokens allowed."
        raise InvalidValue(message, "min_tokens")


def _refuse_what_a_grammar_excludes(ask: Ask, modalities: frozenset[Modality]) -> None:
    """Refuse what an answer in a fixed form cannot have beside it: pictures, or an end set by anything but the form itself."""
    if ask.text_form is not None:
        param, form = ask.text_form.param, "an answer in a fixed form"
    elif ask.tool_use is not None:
        param, form = "tools", "an answer that may call tools"
    else:
        return
    if Modality.IMAGE in modalities:
        raise UnsupportedParameter(f'{param}: {form} holds no pictures; it needs modalities ["text"].', param)
    for name, is_asked in (("min_tokens", ask.text.min_tokens), ("ignore_eos", ask.text.ignore_eos)):
        if is_asked:
            raise UnsupportedParameter(f"{name}: {form} ends where its form requires; leave the field out.", name)


def _thinking(ask: Ask, mode: OutputMode) -> Thinking:
    if not ask.thinks:
        return Thinking.NONE
    return Thinking.FIRST if mode is OutputMode.TEXT else Thinking.ALL


def _num_timesteps(sampler: SamplerDefaults, effort: Effort) -> int:
    """Return how many timesteps an effort is worth: T of spec 6.1, of which two are needed."""
    return max(2, round(sampler.num_timesteps * effort.value))


def _or(value: ValueT | None, default: ValueT) -> ValueT:
    return default if value is None else value
