"""Tools as Qwen2.5 models were taught them: the list of tools in the prompt, calls and results as tagged JSON in the text.

The tags of a call are tokens of their own in the vocabulary. Only text made here may spell them: in what a client sends, a tag is
written with an escape where it stands in JSON, and is plain letters elsewhere.
Source of the wording: the chat template of Qwen2.5-Instruct (``tokenizer_config.json``).
"""

from __future__ import annotations

import json
import re

from model.tokenizer import Tokenizer
from server.serving.asks import TextPart, Tool

CALL_BEGIN = "<tool_call>"
CALL_END = "</tool_call>"
CALL_TAGS = re.compile(f"({CALL_BEGIN}|{CALL_END})")

TOOL_LIST = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{signatures}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def tool_list(tools: list[Tool]) -> TextPart:
    """Return what a prompt says of the tools that the model may call."""
    signatures = "\n".join(_json(_signature(tool)) for tool in tools)
    return TextPart(TOOL_LIST.format(signatures=signatures), has_call_tags=True)


def past_call(name: str, arguments: str) -> TextPart:
    """Return a call that the model made earlier; ``arguments`` should be JSON, and is repeated as a string if it is not."""
    try:
        call = _json({"name": name, "arguments": json.loads(arguments)})
        call.encode()  # half a surrogate pair, which JSON may spell, is no text
    except (ValueError, RecursionError):
        call = _json({"name": name, "arguments": arguments})
    return TextPart(f"{CALL_BEGIN}\n{call}\n{CALL_END}", has_call_tags=True)


def past_result(text: str) -> TextPart:
    """Return what a tool answered."""
    return TextPart(f"<tool_response>\n{text}\n</tool_response>")


def text_ids(parts: list[TextPart], tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of neighbouring texts, each on a line of its own; an empty one takes no line."""
    token_ids: list[int] = []
    plain = ""
    for number, part in enumerate(part for part in parts if part.text):
        plain += "\n" if number else ""
        for piece in CALL_TAGS.split(part.text) if part.has_call_tags else [part.text]:
            if part.has_call_tags and CALL_TAGS.fullmatch(piece):
                token_ids += tokenizer.encode(plain) + tokenizer.encode(piece, allow_special=True)
                plain = ""
            else:
                plain += piece
    return token_ids + tokenizer.encode(plain)


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return CALL_TAGS.sub(lambda tag: tag.group().replace("<", "\\u003c"), text)


def _signature(tool: Tool) -> dict[str, object]:
    function: dict[str, object] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    return {"type": "function", "function": function}
