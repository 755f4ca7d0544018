"""``plait reference``: the API as a page of the documentation, written from the schema that the server itself serves."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec

from model.shipped import STORYBOOK
from server.cli.command import Command, ExitStatus
from server.front import build_front
from server.serving.engine_launch import EngineProcess
from server.serving.served_model import ServedModel
from server.settings import Settings

HEAD = """\
# API

Written from `/openapi.json`, which every server serves and which has every field with its bounds. Requests of `/v1` take a key as
`Authorization: Bearer …` where the server has keys. Errors have OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.
"""


class Schema(msgspec.Struct, frozen=True):
    """The part of a JSON schema that a table shows."""

    ref: str = msgspec.field(default="", name="$ref")
    type: str = ""
    anyOf: list[Schema] = []
    items: Schema | None = None
    const: str | int | float | bool | None = None
    contentSchema: Schema | None = None
    enum: list[str | int | float | bool | None] = []
    description: str = ""
    properties: dict[str, Schema] = {}
    required: list[str] = []


class Media(msgspec.Struct, frozen=True):
    schema: Schema = Schema()


class Content(msgspec.Struct, frozen=True):
    description: str = ""
    content: dict[str, Media] = {}


class Operation(msgspec.Struct, frozen=True):
    summary: str = ""
    description: str = ""
    requestBody: Content | None = None
    responses: dict[str, Content] = {}


class Components(msgspec.Struct, frozen=True):
    schemas: dict[str, Schema] = {}


class Document(msgspec.Struct, frozen=True):
    paths: dict[str, dict[str, Operation]]
    components: Components = Components()


def run(options: argparse.Namespace) -> ExitStatus:
    """Print the page."""
    print("\n".join(page(msgspec.json.decode(asyncio.run(openapi()), type=Document))))
    return ExitStatus.OK


async def openapi() -> bytes:
    """Return the schema of a server that is made but not started."""
    model = ServedModel.from_directory(STORYBOOK, STORYBOOK.name, None)
    with tempfile.TemporaryDirectory() as directory:
        front = build_front(Settings(), model, _never, Path(directory))
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(front.app), base_url="http://plait") as http:
                return (await http.get("/openapi.json")).raise_for_status().content
        finally:
            await front.close()


async def _never(socket_path: Path) -> EngineProcess:
    raise AssertionError(f"no engine is started for a schema, least of all at {socket_path}")


def page(document: Document) -> Iterator[str]:
    """Yield the lines of the page: one section for each operation, one for each body."""
    yield HEAD
    for path, operations in document.paths.items():
        for method, operation in operations.items():
            yield f"## {method.upper()} {path}\n"
            yield f"{operation.description or operation.summary}\n"
            yield from _exchange(operation)
    yield "## Bodies\n"
    for name, schema in sorted(document.components.schemas.items()):
        if schema.properties:
            yield from _body(name, schema)


def _exchange(operation: Operation) -> Iterator[str]:
    if operation.requestBody is not None:
        for media_type, media in operation.requestBody.content.items():
            yield f"Takes `{media_type}`: {kind_of(media.schema)}.\n"
    yield "| status | answer |\n|---|---|"
    for status, response in operation.responses.items():
        kinds = ", ".join(f"`{media_type}`: {kind_of(media.schema)}" for media_type, media in response.content.items())
        yield f"| {status} | {_cell(response.description)}{f' ({kinds})' if kinds else ''} |"
    yield ""


def _body(name: str, schema: Schema) -> Iterator[str]:
    yield f"### {name}\n"
    if schema.description:
        yield f"{schema.description}\n"
    yield "| field | kind | |\n|---|---|---|"
    for field, kind in schema.properties.items():
        needed = " (required)" if field in schema.required else ""
        yield f"| `{field}`{needed} | {_cell(kind_of(kind))} | {_cell(kind.description)} |"
    yield ""


def kind_of(schema: Schema) -> str:
    """Return what a value is, in words: a body is named."""
    if schema.ref:
        return f"`{schema.ref.rpartition('/')[2]}`"
    if schema.anyOf:
        return " or ".join(dict.fromkeys(kind_of(choice) for choice in schema.anyOf))
    if schema.enum:
        return ", ".join(f"`{value}`" for value in schema.enum)
    if schema.const is not None:
        return f"`{schema.const}`"
    if schema.contentSchema is not None:
        return f"{kind_of(schema.contentSchema)} as JSON"
    if "data" in schema.properties and not schema.ref:
        return f"events, the data of each: {kind_of(schema.properties['data'])}"
    if schema.items is not None:
        return f"list of {kind_of(schema.items)}"
    return schema.type or "anything"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare nothing: the command has no options."""


COMMAND = Command("reference", "Writes the API reference of the documentation.", add_options, run)
