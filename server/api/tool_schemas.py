"""Tools in a chat request: the functions offered, and whether one must be called."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from server.api.wire_object import WireObject
from server.errors import InvalidValue
from server.serving.asks import Tool, ToolUse

MAX_TOOLS = 128
"""As many as OpenAI takes."""

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class FunctionTool(WireObject):
    """``strict`` refuses parameters of which answers could be held to a part alone."""

    name: ToolName
    description: Annotated[str, Field(max_length=10_000)] | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class ToolInput(WireObject):
    type: Literal["function"]
    function: FunctionTool

    REFUSED: ClassVar[dict[str, str]] = {"custom": "this server knows functions only; offer it as one of type 'function'"}


class NamedFunction(WireObject):
    name: ToolName


class NamedTool(WireObject):
    """One tool, which must be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(WireObject):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS)]


class AllowedToolsChoice(WireObject):
    """Some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _kind_of_choice(value: object) -> str | None:
    if isinstance(value, str):
        return "(word)"
    kind = value.get("type") if isinstance(value, dict) else None
    return f"({kind})" if kind in ("function", "allowed_tools") else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("(word)")]
    | Annotated[NamedTool, Tag("(function)")]
    | Annotated[AllowedToolsChoice, Tag("(allowed_tools)")],
    Discriminator(
        _kind_of_choice,
        custom_error_type="invalid_value",
        custom_error_message="expected 'none', 'auto', 'required', or an object of type 'function' or 'allowed_tools'",
    ),
]


class PastFunction(WireObject):
    """``parsed_arguments`` has no effect: it is what a client's helper has read out of ``arguments``."""

    name: ToolName
    arguments: Annotated[str, Field(max_length=1_000_000)]
    parsed_arguments: JsonValue = None


class PastCall(WireObject):
    """A call of an earlier answer."""

    type: Literal["function"] = "function"
    id: Annotated[str, Field(max_length=256)]
    function: PastFunction
    index: Annotated[int, Field(ge=0, le=MAX_TOOLS)] | None = None

    REFUSED: ClassVar[dict[str, str]] = {"custom": "this server knows functions only"}


def tool_use(tools: list[ToolInput] | None, choice: ToolChoice | None, *, is_parallel: bool) -> ToolUse | None:
    """Return the tools of a request; None when the answer may call none.

    Raises:
        InvalidValue: the choice names a tool that is not there, two tools share a name, or there are no tools to choose from.
    """
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidValue("tool_choice: there are no tools to choose from; tools is empty.", "tool_choice")
        return None
    offered = by_name([_tool(tool.function, place) for place, tool in enumerate(tools)])
    match choice:
        case "none":
            return None
        case NamedTool():
            return ToolUse(named([choice.function.name], offered), must_call=True, is_parallel=False)
        case AllowedToolsChoice():
            allowed = choice.allowed_tools
            chosen = named([tool.function.name for tool in allowed.tools], offered)
            return ToolUse(chosen, must_call=allowed.mode == "required", is_parallel=is_parallel)
        case _:
            return ToolUse(list(offered.values()), must_call=choice == "required", is_parallel=is_parallel)


def _tool(function: FunctionTool, place: int) -> Tool:
    return Tool(function.name, function.description, function.parameters, f"tools[{place}].function.parameters", function.strict is True)


def by_name(tools: list[Tool]) -> dict[str, Tool]:
    """Return tools under their names.

    Raises:
        InvalidValue: two of them share one.
    """
    offered = {tool.name: tool for tool in tools}
    if len(offered) < len(tools):
        raise InvalidValue("tools: two of them have the same name.", "tools")
    return offered


def named(names: list[str], offered: dict[str, Tool]) -> list[Tool]:
    """Return the tools that a choice names.

    Raises:
        InvalidValue: one of them is not offered.
    """
    for name in names:
        if name not in offered:
            raise InvalidValue(f"tool_choice: tools has no '{name}'.", "tool_choice")
    return list({name: offered[name] for name in names}.values())
