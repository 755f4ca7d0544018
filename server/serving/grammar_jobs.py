"""What goes to the process of a grammar writer and what comes back. Schemas travel as JSON: what is in them is the client's."""

from __future__ import annotations

import json
from dataclasses import dataclass

from server.serving.asks import Ask, ChoiceForm, JsonForm, PatternForm, TextForm, Tool, ToolUse


@dataclass(frozen=True, slots=True)
class SchemaJob:
    """A JSON schema and where it stood; ``name`` and ``is_strict`` are a tool's."""

    text: str
    param: str
    name: str = ""
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class GrammarJob:
    """What of an ask decides the form of its answer: at most one of a schema, choices and a pattern."""

    thinks: bool
    schema: SchemaJob | None
    choices: ChoiceForm | None
    pattern: PatternForm | None
    tools: list[SchemaJob] | None
    must_call: bool
    is_parallel: bool

    @classmethod
    def of(cls, ask: Ask) -> GrammarJob:
        """Return the job of an ask."""
        form, use = ask.text_form, ask.tool_use
        return cls(
            thinks=ask.thinks,
            schema=SchemaJob(json.dumps(form.schema), form.param) if isinstance(form, JsonForm) else None,
            choices=form if isinstance(form, ChoiceForm) else None,
            pattern=form if isinstance(form, PatternForm) else None,
            tools=None
            if use is None
            else [SchemaJob(json.dumps(tool.parameters), tool.param, tool.name, tool.is_strict) for tool in use.tools],
            must_call=use is not None and use.must_call,
            is_parallel=use is not None and use.is_parallel,
        )

    def ask(self) -> Ask:
        """Return an ask of the same form."""
        schema = None if self.schema is None else JsonForm(json.loads(self.schema.text), self.schema.param)
        form: TextForm | None = schema or self.choices or self.pattern
        tools = [Tool(tool.name, None, json.loads(tool.text), tool.param, tool.is_strict) for tool in self.tools or ()]
        use = None if self.tools is None else ToolUse(tools, self.must_call, self.is_parallel)
        return Ask([], thinks=self.thinks, text_form=form, tool_use=use)


@dataclass(frozen=True, slots=True)
class GrammarResult:
    """The grammar; or why there is none: the error's code, as in `server.errors`, its message and the place."""

    grammar: str | None = None
    code: str | None = None
    message: str = ""
    param: str | None = None
