"""The tools of the Responses API that this server has, drawing pictures and calling functions, and how a request chooses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from server.api.drawing_options import OfficialOptions
from server.api.picture_fields import TOOL_FIELDS
from server.api.tool_schemas import MAX_TOOLS, ToolName, by_name, named
from server.api.wire_object import WireObject, unsupported
from server.serving.asks import PictureChoices, ToolUse
from server.serving.asks import Tool as FunctionOffered

MAX_PICTURES = 16


class ImageTool(OfficialOptions):
    """How pictures are drawn."""

    model_config = ConfigDict(json_schema_extra=TOOL_FIELDS.describe)

    type: Literal["image_generation"]
    action: Literal["generate", "edit", "auto"] | None = None
    model: Annotated[str, Field(max_length=256)] | None = None
    quality: Literal["low", "medium", "high", "xhigh", "max", "auto"] | None = None
    max_images: Annotated[int, Field(ge=1, le=MAX_PICTURES)] | None = None

    REFUSED: ClassVar[dict[str, str]] = TOOL_FIELDS.refusals()
    SYNONYMS: ClassVar[dict[str, str]] = {**OfficialOptions.SYNONYMS, "n": "max_images"}

    def choices(self, max_calls: int | None) -> PictureChoices:
        """Return the choices; ``max_calls`` is the request's own bound on pictures."""
        bounds = [bound for bound in (self.max_images, max_calls) if bound is not None]
        return replace(self.drawing(), max_images=min(bounds, default=None))


class ResponseFunction(WireObject):
    """A function the model may call. ``strict`` refuses parameters of which answers could be held to a part alone."""

    type: Literal["function"]
    name: ToolName
    description: Annotated[str, Field(max_length=10_000)] | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None
    is_async: Literal[False] | None = Field(default=None, alias="async")

    REFUSED: ClassVar[dict[str, str]] = {
        "async_": "is spelled async",
        "allowed_callers": "functions are called by the model alone",
        "defer_loading": "every tool is told to the model from the start",
        "output_schema": "what a function answers is read as it is",
    }


def _kind_of_tool(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"({kind})" if kind in ("image_generation", "function") else "(other)"


class OtherTool(WireObject):
    """Any other tool, refused by name."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, value: object) -> object:
        raise unsupported("this server's tools are image_generation and functions", "type")


Tool = Annotated[
    Annotated[ImageTool, Tag("(image_generation)")] | Annotated[ResponseFunction, Tag("(function)")] | Annotated[OtherTool, Tag("(other)")],
    Discriminator(_kind_of_tool),
]


class ChosenTool(WireObject):
    """Draw, whatever the model would do."""

    type: Literal["image_generation"]


class ChosenFunction(WireObject):
    """One function, which must be called."""

    type: Literal["function"]
    name: ToolName


def _kind_of_allowed(value: object) -> str | None:
    if isinstance(value, ChosenTool | ChosenFunction):  # on its way out, to be repeated
        return f"({value.type})"
    kind = value.get("type") if isinstance(value, dict) else None
    return f"({kind})" if kind in ("image_generation", "function") else None


AllowedTool = Annotated[
    Annotated[ChosenTool, Tag("(image_generation)")] | Annotated[ChosenFunction, Tag("(function)")],
    Discriminator(
        _kind_of_allowed,
        custom_error_type="invalid_value",
        custom_error_message="expected an object of type 'image_generation' or 'function'",
    ),
]


class AllowedTools(WireObject):
    """Some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], Field(min_length=1, max_length=MAX_TOOLS)]


def _kind_of_choice(value: object) -> str | None:
    if isinstance(value, str):
        return "(mode)"
    kind = value.get("type") if isinstance(value, dict) else None
    return f"({kind})" if kind in ("image_generation", "function", "allowed_tools") else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("(mode)")]
    | Annotated[ChosenTool, Tag("(image_generation)")]
    | Annotated[ChosenFunction, Tag("(function)")]
    | Annotated[AllowedTools, Tag("(allowed_tools)")],
    Discriminator(
        _kind_of_choice,
        custom_error_type="invalid_value",
        custom_error_message=(
            "expected 'none', 'auto', 'required', or an object of type 'image_generation', 'function' or 'allowed_tools'"
        ),
    ),
]


@dataclass(frozen=True, slots=True)
class ChosenTools:
    """What an answer may use, and whether it must.

    Attributes:
        image: the drawing tool, if it may be used.
        needs_image: the choice names the drawing tool.
        functions: the names of the functions that may be called; None for all there are.
        must_use: the answer is a picture or a call, whatever the model would say.
        is_parallel: it may be several calls.
    """

    image: ImageTool | None
    functions: Sequence[str] | None
    must_use: bool
    is_parallel: bool
    needs_image: bool = False

    def use(self, tools: Sequence[ImageTool | ResponseFunction | OtherTool]) -> ToolUse | None:
        """Return the functions among ``tools`` that may be called; None when there are none.

        Raises:
            InvalidValue: the choice names a function that is not there, or two share a name.
        """
        offered = by_name(
            [
                FunctionOffered(tool.name, tool.description, tool.parameters, f"tools[{place}].parameters", tool.strict is True)
                for place, tool in enumerate(tools)
                if isinstance(tool, ResponseFunction)
            ]
        )
        chosen = list(offered.values()) if self.functions is None else named(list(self.functions), offered)
        return ToolUse(chosen, must_call=self.must_use, is_parallel=self.is_parallel) if chosen else None


def chosen_tools(tools: Sequence[ImageTool | ResponseFunction | OtherTool], choice: ToolChoice | None, *, is_parallel: bool) -> ChosenTools:
    """Return what a choice leaves of the tools."""
    image = next((tool for tool in tools if isinstance(tool, ImageTool)), None)
    match choice:
        case "none":
            return ChosenTools(None, [], must_use=False, is_parallel=False)
        case ChosenTool():
            return ChosenTools(image, [], must_use=True, is_parallel=False, needs_image=True)
        case ChosenFunction():
            return ChosenTools(None, [choice.name], must_use=True, is_parallel=False)
        case AllowedTools():
            allowed = [tool.name for tool in choice.tools if isinstance(tool, ChosenFunction)]
            may_draw = len(allowed) < len(choice.tools)
            must_use = choice.mode == "required"
            return ChosenTools(image if may_draw else None, allowed, must_use=must_use, is_parallel=is_parallel, needs_image=may_draw)
        case _:
            return ChosenTools(image, None, must_use=choice == "required", is_parallel=is_parallel)


def shown_tool(tool: ImageTool | ResponseFunction | OtherTool) -> dict[str, JsonValue]:
    """Return a tool as the response repeats it."""
    given: dict[str, JsonValue] = tool.model_dump(mode="json", exclude_unset=True, by_alias=True)
    return {"parameters": None, "strict": None, **given} if isinstance(tool, ResponseFunction) else given
