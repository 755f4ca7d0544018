"""The tables of request fields: complete, in step with the schemas and with the pages in the docs, and true."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import get_type_hints

import pytest
from openai.types.chat import completion_create_params as chat_params
from openai.types.image_edit_params import ImageEditParamsNonStreaming, ImageEditParamsStreaming
from openai.types.image_generate_params import ImageGenerateParamsNonStreaming, ImageGenerateParamsStreaming
from openai.types.responses import response_create_params as response_params
from openai.types.responses.tool_param import ImageGeneration

from server.api.bad_requests import checked
from server.api.chat_fields import CHAT_FIELDS
from server.api.chat_schemas import ChatRequest, ImageOptions
from server.api.field_pages import FOLDER, TABLES
from server.api.field_table import FieldTable, Origin
from server.api.image_fields import EDIT_FIELDS, GENERATION_FIELDS
from server.api.image_schemas import EditRequest, GenerationRequest
from server.api.picture_fields import PICTURE_FIELDS, TOOL_FIELDS
from server.api.response_fields import RESPONSE_FIELDS
from server.api.response_schemas import ResponseRequest
from server.api.response_tools import ImageTool
from server.api.wire_object import WireObject
from server.errors import UnknownParameter, UnsupportedParameter


@dataclass(frozen=True, slots=True)
class Route:
    """A route's table, its schema, the least body it takes, and the official client's fields."""

    table: FieldTable
    schema: type[WireObject]
    body: dict[str, object]
    official: frozenset[str]


def fields_of(*params: type) -> frozenset[str]:
    return frozenset(name for kind in params for name in get_type_hints(kind))


CHAT = Route(
    CHAT_FIELDS,
    ChatRequest,
    {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    fields_of(chat_params.CompletionCreateParamsNonStreaming, chat_params.CompletionCreateParamsStreaming),
)
RESPONSE = Route(
    RESPONSE_FIELDS,
    ResponseRequest,
    {"model": "m", "input": "hi"},
    fields_of(response_params.ResponseCreateParamsNonStreaming, response_params.ResponseCreateParamsStreaming),
)
GENERATION = Route(
    GENERATION_FIELDS,
    GenerationRequest,
    {"prompt": "a cat"},
    fields_of(ImageGenerateParamsNonStreaming, ImageGenerateParamsStreaming),
)
EDIT = Route(
    EDIT_FIELDS,
    EditRequest,
    {"prompt": "a cat", "images": [{"image_url": "data:,"}]},
    fields_of(ImageEditParamsNonStreaming, ImageEditParamsStreaming) - {"image"} | {"images", "moderation"},
)
"""The official client sends edits as forms, where the pictures are called ``image``; ``moderation`` is a field of the JSON alone."""

PICTURE = Route(PICTURE_FIELDS, ImageOptions, {}, frozenset())
TOOL = Route(TOOL_FIELDS, ImageTool, {"type": "image_generation"}, fields_of(ImageGeneration))
"""Objects within a request, which have tables of their own."""

ROUTES = (CHAT, RESPONSE, GENERATION, EDIT, PICTURE, TOOL)
of_each_route = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.table.page_name)


def cases(*, are_refused: bool) -> list[tuple[Route, str]]:
    return [(route, name) for route in ROUTES for name in (route.table.refusals() if are_refused else route.table.descriptions())]


def named(case: tuple[Route, str]) -> str:
    return f"{case[0].table.page_name}-{case[1]}"


@of_each_route
def test_the_table_knows_every_field_of_the_official_client(route: Route) -> None:
    assert route.official == {rule.name for rule in route.table.rules if rule.origin is Origin.OPENAI}


@of_each_route
def test_the_table_names_each_field_once(route: Route) -> None:
    names = [rule.name for rule in route.table.rules]
    assert len(names) == len(set(names))


@of_each_route
def test_what_the_table_accepts_is_what_the_schema_has(route: Route) -> None:
    assert set(route.table.descriptions()) == set(route.schema.model_fields)


def test_every_route_has_its_page() -> None:
    assert tuple(route.table for route in ROUTES) == TABLES


@of_each_route
def test_the_page_in_the_docs_is_the_table(route: Route) -> None:
    assert (FOLDER / f"{route.table.page_name}.md").read_text() == route.table.page()


@of_each_route
def test_the_schema_describes_each_field_by_the_table(route: Route) -> None:
    properties = route.schema.model_json_schema()["properties"]
    assert {name: properties[name]["description"] for name in properties} == route.table.descriptions()


@of_each_route
def test_the_least_body_is_taken(route: Route) -> None:
    checked(json.dumps(route.body).encode(), route.schema)


@pytest.mark.parametrize("case", cases(are_refused=True), ids=named)
def test_a_refused_field_is_refused_by_its_name_with_what_to_do(case: tuple[Route, str]) -> None:
    route, name = case
    with pytest.raises(UnsupportedParameter) as caught:
        checked(json.dumps({**route.body, name: {}}).encode(), route.schema)
    assert caught.value.param == name
    assert route.table.refusals()[name] in caught.value.message


@pytest.mark.parametrize("case", cases(are_refused=False), ids=named)
def test_a_misspelled_field_is_answered_with_the_nearest_known_name(case: tuple[Route, str]) -> None:
    route, name = case
    with pytest.raises(UnknownParameter) as caught:
        checked(json.dumps({**route.body, f"{name}_": 1}).encode(), route.schema)
    assert caught.value.param == f"{name}_" and f"nearest known one is '{name}'" in caught.value.message


@pytest.mark.parametrize("route", [GENERATION, EDIT, PICTURE, TOOL], ids=lambda route: route.table.page_name)
@pytest.mark.parametrize(("theirs", "ours"), [("cfg_scale", "text_scale"), ("num_timesteps", "num_inference_steps"), ("width", "size")])
def test_what_other_servers_call_an_option_of_drawing_leads_to_ours(route: Route, theirs: str, ours: str) -> None:
    """The tool of responses knew fewer of their names than chat did."""
    with pytest.raises(UnknownParameter, match=f"nearest known one is '{ours}'"):
        checked(json.dumps({**route.body, theirs: 1}).encode(), route.schema)
