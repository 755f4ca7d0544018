"""vLLM's field of what an answer's text must be, for forms that JSON has none of: one of some texts, or what a pattern matches."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, JsonValue, model_validator

from server.api.wire_object import WireObject, invalid
from server.serving.asks import MAX_ENUM_VALUES, MAX_PATTERN_CHARS, ChoiceForm, JsonForm, PatternForm, TextForm

PARAM = "structured_outputs"
ONE_OF = "expected exactly one of choice, regex and json"


class StructuredOutputs(WireObject):
    """One of ``choice``, ``regex`` and ``json``, a schema."""

    choice: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(min_length=1, max_length=MAX_ENUM_VALUES)] | None = (
        None
    )
    regex: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARS)] | None = None
    json_schema: dict[str, JsonValue] | None = Field(default=None, alias="json")

    REFUSED: ClassVar[dict[str, str]] = {
        "json_object": "use response_format",
        "grammar": "use choice, regex or json",
        "structural_tag": "use tools",
        "disable_any_whitespace": "JSON is written on one line",
        "whitespace_pattern": "JSON is written on one line",
    }

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if sum(said is not None for said in (self.choice, self.regex, self.json_schema)) != 1:
            raise invalid(ONE_OF)
        return self

    def form(self) -> TextForm:
        """Return what the answer's text must be."""
        if self.choice is not None:
            return ChoiceForm(self.choice, f"{PARAM}.choice")
        if self.regex is not None:
            return PatternForm(self.regex, f"{PARAM}.regex")
        return JsonForm(self.json_schema or {}, f"{PARAM}.json")
