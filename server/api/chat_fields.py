"""Every field a chat request may carry, and what becomes of it: honoured, accepted without effect, or refused by name.

The one table behind the schema's refusals and descriptions, and behind ``docs/reference/chat-fields.md``, which `field_table` writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Treatment(Enum):
    HONOURED = "honoured"
    NO_OP = "no-op"
    REFUSED = "refused"


class Origin(Enum):
    """Whose name a field is."""

    OPENAI = "OpenAI"
    VLLM = "vLLM"
    PLAIT = "Plait"


@dataclass(frozen=True, slots=True)
class FieldRule:
    """One field. ``says`` is its effect, why it has none, or what to do instead: an error repeats it."""

    name: str
    origin: Origin
    treatment: Treatment
    says: str


def _honoured(origin: Origin, **effects: str) -> tuple[FieldRule, ...]:
    return tuple(FieldRule(name, origin, Treatment.HONOURED, says) for name, says in effects.items())


def _no_op(**reasons: str) -> tuple[FieldRule, ...]:
    return tuple(FieldRule(name, Origin.OPENAI, Treatment.NO_OP, says) for name, says in reasons.items())


def _refused(origin: Origin, **hints: str) -> tuple[FieldRule, ...]:
    return tuple(FieldRule(name, origin, Treatment.REFUSED, says) for name, says in hints.items())


FIELDS: tuple[FieldRule, ...] = (
    *_honoured(
        Origin.OPENAI,
        messages="the conversation: texts and pictures in order, in every shape that answers have; up to 512 messages",
        model="must name the model served here",
        modalities='what the answer may hold: ["text"], ["image"] or both; left out, the model family decides',
        stream="send the answer as server-sent events while it is made",
        stream_options="include_usage adds a last chunk with the usage; include_obfuscation has no effect",
        n="how many answers, 1 to 4; they share the prompt and differ in seed",
        max_completion_tokens="most text tokens of the answer, thoughts included",
        max_tokens="older name of max_completion_tokens",
        temperature="0 takes the likeliest token, higher draws more evenly, up to 2; 0 when left out",
        top_p="draw among the likeliest tokens that together have this probability",
        presence_penalty="lowers tokens that the answer already holds; negative raises them",
        frequency_penalty="the same for each time the answer holds them",
        logit_bias="added to the logits of up to 300 token ids",
        logprobs="log-probability of each text token of the answer",
        top_logprobs="how many of the likeliest tokens are shown for each token, 0 to 20",
        seed="the same seed gives the same answer, whoever else is served",
        stop="up to 4 strings that end the answer; none of them is sent",
        response_format="what the text must be: text, json_object (any JSON object) or json_schema (JSON that fits the schema)",
        tools="up to 64 functions the model may call, where the model was taught to; arguments always fit their schema",
        tool_choice="none, auto, required, one function, or some allowed ones; a call that must come is forced",
        parallel_tool_calls="false allows one call in an answer at most",
        user="older name of safety_identifier",
        safety_identifier="whose request this is: users share the machine fairly, and no two share cached prompts",
        metadata="up to 16 strings that come back with the answer",
    ),
    *_honoured(
        Origin.VLLM,
        top_k="draw among this many likeliest tokens; 0 is off",
        min_p="draw among tokens at least this fraction as likely as the likeliest",
        repetition_penalty="divides the logits of tokens that the answer already holds; 1 is off",
        min_tokens="the answer does not end before it has this many text tokens",
        ignore_eos="the answer goes on to its token limit",
        priority="lower is served earlier, from -1000 to 1000; 0 when left out",
    ),
    *_honoured(
        Origin.PLAIT,
        image="how pictures are drawn: size, steps, guidance, seed, how many, format, progress",
        think="the model first plans in words, which come as reasoning_content",
    ),
    *_no_op(
        prompt_cache_retention="prompts are cached while there is room, for every request alike",
        prompt_cache_options="prompts are cached while there is room, for every request alike",
        prediction="answers are not drafted ahead, so a prediction cannot speed them up",
        reasoning_effort="effort cannot be measured out; think lets the model plan first",
        verbosity="the model takes no such setting; say it in the prompt",
        service_tier="there is one tier: 'auto' and 'default' are accepted",
        store="answers are not stored for later: false is accepted",
    ),
    *_refused(
        Origin.OPENAI,
        audio="this server has no audio",
        functions="use tools",
        function_call="use tool_choice",
        web_search_options="this server does not search the web",
        moderation="this server does not moderate",
        prompt_cache_key="prompts are cached by their content; leave the field out",
    ),
    *_refused(
        Origin.VLLM,
        chat_template="the model has no chat template",
        chat_template_kwargs="the model has no chat template",
        guided_json="use response_format",
        guided_regex="use response_format",
        guided_choice="use response_format",
        guided_grammar="use response_format",
        structured_outputs="use response_format",
        best_of="use n",
        use_beam_search="answers are drawn, not searched for",
        stop_token_ids="use stop",
        bad_words="use logit_bias",
        prompt_logprobs="only tokens of the answer are scored; use logprobs",
        cache_salt="use safety_identifier, which separates caches",
        media_io_kwargs="pictures are read in one way",
        mm_processor_kwargs="pictures are read in one way",
        echo="the prompt is not repeated",
        documents="put documents into messages",
    ),
)


def refused_fields() -> dict[str, str]:
    """Return what is said about each refused field."""
    return {rule.name: rule.says for rule in FIELDS if rule.treatment is Treatment.REFUSED}


def described_fields() -> dict[str, str]:
    """Return the description of each accepted field."""
    return {rule.name: _description(rule) for rule in FIELDS if rule.treatment is not Treatment.REFUSED}


def _description(rule: FieldRule) -> str:
    return f"No effect: {rule.says}" if rule.treatment is Treatment.NO_OP else rule.says


INTRODUCTION = """\
# Fields of a chat request

Every field of `POST /v1/chat/completions`: *honoured* (it has the effect), *no-op* (accepted for the sake of clients that always send
it, without effect) or *refused* (an error with `"code": "unsupported_parameter"` and the field's name as `param`). Any other field is
refused with `"code": "unknown_parameter"` and the nearest known name. `null` counts as left out.

Written from `server/api/chat_fields.py`; renew it with `python -m server.api.chat_fields > docs/reference/chat-fields.md`.
"""


def field_table() -> str:
    """Return the reference page of the fields, as Markdown."""
    rows = [f"| `{rule.name}` | {rule.origin.value} | {rule.treatment.value} | {rule.says} |" for rule in FIELDS]
    return "\n".join([INTRODUCTION, "| field | named by | treatment | effect, or what to do |", "| --- | --- | --- | --- |", *rows, ""])


if __name__ == "__main__":
    print(field_table(), end="")
