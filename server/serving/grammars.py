"""What an answer's text must be, as a grammar for the engine: JSON, a choice, a match, calls of tools, a thought before any of them.

A client's schema is bounded here before the grammar library sees it. What the library cannot hold an answer to is refused, but for
parameters of functions that are not said to be strict: those are held to as much of their schema as can be. JSON is written on one line,
as a model writes it by itself: free white space would let a small model write nothing else.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import llguidance
from pydantic import JsonValue

from server.errors import InvalidValue, UnsupportedParameter
from server.serving.asks import MAX_ENUM_VALUES, MAX_PATTERN_CHARS, Ask, ChoiceForm, JsonForm, PatternForm, TextForm, Tool, ToolUse
from server.serving.enforceable import Enforceable, Schema, enforceable

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_SCHEMA_CHARS = 1 << 16
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_NODES = 5000

REWRITTEN = re.compile(r"\\.|[/\n\r]", re.DOTALL)
AS_WRITTEN_HERE = {
    "/": r"\/",
    "\n": r"\n",
    "\r": r"\r",
    r"\d": "[0-9]",
    r"\D": "[^0-9]",
    r"\w": "[0-9A-Za-z_]",
    r"\W": "[^0-9A-Za-z_]",
}
"""What would end a pattern in the grammar, and classes that hold every script's digits and letters there, but ASCII's alone in a schema's
patterns and wherever patterns for answers are written."""

JSON_STYLE: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
    "lenient": False,
}
"""``coerce_one_of`` reads oneOf as anyOf: which alternative is meant cannot be told while it is being written."""

LIMITS = llguidance.LLParserLimits(verbose_errors=False)
BYTES = llguidance.LLTokenizer("byte")
"""Enough of a vocabulary to see whether an answer can begin."""
NUM_BYTES_TRIED = 4
TOO_COMPLEX = ("too big", "too many", "limit", "max is")
"""How the library says that a grammar is beyond its bounds."""
MAX_DROPPED_SHOWN = 4
"""How much of what a schema cannot have an error names."""

THINKING = """\
thought[lazy]: "<think>" TEXT "</think>"
BREAK: /\\s{1,2}/
"""
CALLING = """\
before[lazy]: TEXT "<tool_call>\\n"
first: "<tool_call>\\n" call
next: "\\n<tool_call>\\n" call
call: {calls}
"""
ANY_TEXT = """\
TEXT: /(.|\\n)*/
"""


def answer_grammar(ask: Ask) -> str | None:
    """Return the grammar that an ask holds its answer to, in llguidance's Lark dialect; None when anything will do.

    Raises:
        InvalidValue: a schema or a pattern beyond the bounds, or none.
        UnsupportedParameter: a schema that uses what answers cannot be held to.
    """
    if ask.text_form is None and ask.tool_use is None:
        return None
    rules = ANY_TEXT
    if ask.thinks:
        rules += THINKING
    if ask.text_form is not None:
        rules += f"form: {_form(ask.text_form)}\n"
    if ask.tool_use is not None:
        rules += _calls(ask.tool_use)
    start = "thought BREAK? answer" if ask.thinks else "answer"
    return f"%llguidance {{}}\nstart: {start}\nanswer: {_answer(ask)}\n{rules}"


def _answer(ask: Ask) -> str:
    """Say what the answer is made of: calls, a fixed form, or calls amid free text."""
    use, otherwise = ask.tool_use, "TEXT" if ask.text_form is None else "form"
    if use is None:
        return otherwise
    calls = "first next*" if use.is_parallel else "first"
    if use.must_call:
        return calls
    if ask.text_form is not None:
        return f"{calls} | form"
    return "(before call)* TEXT" if use.is_parallel else "before call | TEXT"


def _form(form: TextForm) -> str:
    match form:
        case JsonForm():
            return _json(held(form.schema, form.param, is_strict=True))
        case ChoiceForm():
            return " | ".join(json.dumps(choice) for choice in form.choices)
        case PatternForm():
            return _match(form)


def _match(form: PatternForm) -> str:
    """Return a pattern as the grammar writes one: between slashes, on one line.

    Raises:
        InvalidValue: it is none, or one that needs more than the bounds.
    """
    written = REWRITTEN.sub(lambda found: AS_WRITTEN_HERE.get(found.group(), found.group()), form.pattern)
    grammar = f"%llguidance {{}}\nstart: /{written}/"
    problem = str(llguidance.LLMatcher.validate_grammar(grammar, limits=LIMITS)) or _problem_of_beginning(grammar)
    if not problem:
        return f"/{written}/"
    # What it says may quote the pattern.
    if any(words in problem and words not in written for words in TOO_COMPLEX):
        raise InvalidValue(f"{form.param}: the pattern is too complex; simplify its counts or alternatives.", form.param)
    message = (
        f"{form.param}: not a regular expression that an answer can be held to; it may not use look-around, word boundaries, "
        "back-references, or ^ and $ inside."
    )
    raise InvalidValue(message, form.param)


def _calls(use: ToolUse) -> str:
    """Return the rules of calls: the name of a tool, then arguments that fit its schema."""
    rules = CALLING.format(calls=" | ".join(f"call_{number}" for number in range(len(use.tools))))
    for number, tool in enumerate(use.tools):
        parameters = held(_parameters(tool), tool.param, is_strict=tool.is_strict)
        begin = json.dumps(f'{{"name": "{tool.name}", "arguments": ')
        rules += f'call_{number}: {begin} {_json(parameters)} "}}\\n</tool_call>"\n'
    return rules


def _parameters(tool: Tool) -> Schema:
    """Return the schema of a tool's arguments, which are an object.

    Raises:
        InvalidValue: it is that of something else: such a call would be no call to anybody.
    """
    parameters = tool.parameters or {"properties": {}}
    kinds = parameters.get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        raise InvalidValue(f"{tool.param}: expected a schema of type 'object', since arguments have names.", tool.param)
    return {**parameters, "type": "object"}


def _json(schema: Schema) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': JSON_STYLE})}"


def held(schema: Schema, param: str, *, is_strict: bool) -> Schema:
    """Return the schema that answers are held to: the client's own, or where it ``is_strict`` not, as much of it as can be.

    Raises:
        InvalidValue, UnsupportedParameter: see `answer_grammar`.
    """
    _check_size(schema, param)
    possible = enforceable(schema, _problem)
    if is_strict and possible.dropped:
        raise _unsupported(possible, param)
    problem = _problem(possible.schema) or _problem_of_beginning(_library_grammar(possible.schema))
    if not problem:
        return possible.schema
    if any(words in problem for words in TOO_COMPLEX):
        raise InvalidValue(f"{param}: the schema is too complex; simplify its patterns, counts or alternatives.", param)
    raise InvalidValue(f"{param}: not a JSON schema that can be enforced.", param)


def _unsupported(possible: Enforceable, param: str) -> UnsupportedParameter:
    shown = possible.dropped[:MAX_DROPPED_SHOWN]
    more = f" and {len(possible.dropped) - len(shown)} more" if len(possible.dropped) > len(shown) else ""
    return UnsupportedParameter(f"{param}: cannot be enforced: {', '.join(shown)}{more}.", param)


def _library_grammar(schema: Schema) -> str:
    return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_STYLE)


def _problem(schema: Schema) -> str:
    """Return what the library says is wrong with a schema; empty where nothing is."""
    return str(llguidance.LLMatcher.validate_grammar(_library_grammar(schema), limits=LIMITS))


def _problem_of_beginning(grammar: str) -> str:
    """Return what the library says is wrong with the first bytes of an answer; empty where nothing is.

    There is no first one to a schema that refers to nothing but itself, and no second to an object of too many properties.
    """
    matcher = llguidance.LLMatcher(BYTES, grammar, log_level=0, limits=LIMITS)
    for _ in range(NUM_BYTES_TRIED):
        allowed = int.from_bytes(matcher.compute_bitmask(), "little")
        if matcher.is_stopped():
            break
        matcher.consume_token((allowed & -allowed).bit_length() - 1)
    return str(matcher.get_error()) if matcher.is_error() else ""


def _check_size(schema: dict[str, JsonValue], param: str) -> None:
    num_chars = len(json.dumps(schema))
    if num_chars > MAX_SCHEMA_CHARS:
        raise InvalidValue(f"{param}: the schema has {num_chars} characters; at most {MAX_SCHEMA_CHARS} are read.", param)
    num_nodes = num_values = 0
    level: list[JsonValue] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        num_nodes += len(level)
        for node in level:
            if isinstance(node, dict):
                num_values += _num_enum_values(node)
                _check_pattern(node, param)
        level = [child for node in level for child in _children(node)]
    if level:
        raise InvalidValue(f"{param}: the schema is nested more than {MAX_SCHEMA_DEPTH} deep.", param)
    if num_nodes > MAX_SCHEMA_NODES:
        raise InvalidValue(f"{param}: the schema has {num_nodes} values; at most {MAX_SCHEMA_NODES} are read.", param)
    if num_values > MAX_ENUM_VALUES:
        raise InvalidValue(f"{param}: the schema's enums have {num_values} values; at most {MAX_ENUM_VALUES} are read.", param)


def _num_enum_values(node: dict[str, JsonValue]) -> int:
    values = node.get("enum")
    return len(values) if isinstance(values, list) else 0


def _check_pattern(node: dict[str, JsonValue], param: str) -> None:
    pattern = node.get("pattern")
    if isinstance(pattern, str) and len(pattern) > MAX_PATTERN_CHARS:
        raise InvalidValue(f"{param}: a pattern has {len(pattern)} characters; at most {MAX_PATTERN_CHARS} are read.", param)


def _children(node: JsonValue) -> list[JsonValue]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []
