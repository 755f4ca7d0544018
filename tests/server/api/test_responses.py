"""The Responses API over a scripted engine: items in order, every event as the official types have it, kept answers fetched again."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from server.messages import FinishedOutput, FinishReason, ImageSegment, OutputMode, Request, TextSegment, Usage
from tests.server.api.chats import STORY, error_of, server_events, spelled, tokens
from tests.server.api.chats import picture as drawn
from tests.server.api.pictures import opened
from tests.server.api.response_scripts import MODEL, by_prompt
from tests.server.picture_files import encoded_picture, picture_uri, uri
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import Output, ScriptedEngine

TOOL: dict[str, object] = {"type": "image_generation", "size": "64x32", "max_images": 2}
STORY_BODY: dict[str, object] = {"model": MODEL, "input": "tell a story", "tools": [TOOL]}
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(by_prompt)) as running:
        yield running


@pytest.fixture(scope="module")
def client(front: RunningFront) -> OpenAI:
    return front.openai()


def said(*parts: dict[str, object]) -> list[dict[str, object]]:
    return [{"role": "user", "content": list(parts)}]


def events_of(http: httpx.Client, body: dict[str, object]) -> list[ResponseStreamEvent]:
    """Stream a response; every event must fit the official types to the letter."""
    with http.stream("POST", "/v1/responses", json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        return [EVENT.validate_json(event.payload, strict=True) for event in server_events(response.iter_lines())]


def create(http: httpx.Client, **body: object) -> Response:
    answer = http.post("/v1/responses", json={"model": MODEL, **body})
    assert answer.status_code == 200, answer.text
    return Response.model_validate_json(answer.content, strict=True)


def test_words_and_pictures_are_items_in_the_order_made(http: httpx.Client) -> None:
    response = create(http, input="tell a story", tools=[TOOL])

    assert [item.type for item in response.output] == ["message", "image_generation_call", "message", "image_generation_call"]
    assert response.output_text == "".join(STORY)
    assert (response.status, response.object, response.model) == ("completed", "response", MODEL)
    assert response.usage is not None and response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_the_official_client_reads_the_same_from_a_stream(client: OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="tell a story", tools=[{"type": "image_generation", "size": "64x32"}]) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert "".join(deltas) == final.output_text == "".join(STORY)
    pictures = [item.result for item in final.output if item.type == "image_generation_call"]
    assert [opened(result or "").format for result in pictures] == ["PNG", "PNG"]


def test_events_tell_how_each_item_grows(http: httpx.Client) -> None:
    events = events_of(http, STORY_BODY)
    first_items = [event.type for event in events if getattr(event, "output_index", 2) < 2 and event.type != "response.output_text.delta"]

    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert first_items == [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.image_generation_call.in_progress",
        "response.image_generation_call.generating",
        "response.image_generation_call.completed",
        "response.output_item.done",
    ]
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_the_finished_items_are_those_of_the_finished_response(http: httpx.Client) -> None:
    events = events_of(http, STORY_BODY)
    done = [event.item for event in events if event.type == "response.output_item.done"]

    assert events[-1].type == "response.completed"
    assert done == events[-1].response.output


def test_partial_pictures_come_while_it_is_drawn(http: httpx.Client) -> None:
    tool = {**TOOL, "partial_images": 2, "quality": "high"}
    events = events_of(http, {"model": MODEL, "input": "a cat", "tools": [tool], "tool_choice": "required"})
    partial = [event for event in events if event.type == "response.image_generation_call.partial_image"]

    assert [event.partial_image_index for event in partial] == [0, 1, 0, 1]
    assert [event.output_index for event in partial] == [0, 0, 1, 1]
    assert opened(partial[0].partial_image_b64).format == "WEBP"
    assert (partial[0].size, partial[0].quality, partial[0].output_format) == ("64x32", "high", "webp")


def test_the_tools_options_reach_the_engine(http: httpx.Client, front: RunningFront) -> None:
    tool = {**TOOL, "quality": "low", "seed": 4, "text_scale": 2.0, "output_format": "webp", "max_images": 3}
    response = create(http, input="a cat", tools=[tool], tool_choice={"type": "image_generation"}, max_tool_calls=2)

    image = front.engine.requests[-1].image
    assert (image.width, image.height, image.num_timesteps, image.seed, image.text_scale, image.max_images) == (64, 32, 25, 4, 2.0, 2)
    first = response.output[0]
    assert first.type == "image_generation_call"
    assert (first.status, first.size, first.output_format, first.background) == ("completed", "64x32", "webp", "opaque")
    assert opened(first.result or "").format == "WEBP"


def test_the_choice_of_tool_decides_what_the_answer_may_hold(http: httpx.Client, front: RunningFront) -> None:
    modes: list[OutputMode] = []
    for choice in ("none", "auto", "required"):
        create(http, input="a cat", tools=[TOOL], tool_choice=choice)
        modes.append(front.engine.requests[-1].mode)
    create(http, input="a cat")

    assert [*modes, front.engine.requests[-1].mode] == [OutputMode.TEXT, OutputMode.ALTERNATE, OutputMode.IMAGE, OutputMode.TEXT]


def test_sampling_fields_reach_the_engine(http: httpx.Client, front: RunningFront) -> None:
    response = create(http, input="hi", temperature=0.5, top_p=0.9, max_output_tokens=7, seed=3, top_k=5, metadata={"a": "b"})

    sampling = front.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.seed, sampling.top_k) == (0.5, 0.9, 7, 3, 5)
    assert (response.temperature, response.top_p, response.max_output_tokens, response.metadata) == (0.5, 0.9, 7, {"a": "b"})


def test_penalties_reach_the_engine_and_come_back(http: httpx.Client, front: RunningFront) -> None:
    """Responses told two of them as 0 and knew neither in requests."""
    body = {"model": MODEL, "input": "hi", "presence_penalty": 1.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1}
    response = http.post("/v1/responses", json=body).json()

    sampling = front.engine.requests[-1].sampling
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1.5, -0.5, 1.1)
    assert (response["presence_penalty"], response["frequency_penalty"]) == (1.5, -0.5)


def test_the_likeliest_token_is_asked_for_by_top_p(http: httpx.Client, front: RunningFront) -> None:
    """As in chat; responses refused 0, which OpenAI's bounds allow."""
    create(http, input="hi", temperature=1.0, top_p=0)
    assert front.engine.requests[-1].sampling.temperature == 0


def test_hints_to_the_prompt_cache_are_taken_and_have_no_effect(http: httpx.Client, front: RunningFront) -> None:
    """As in chat; responses refused them, though a hint changes no answer."""
    mark = {"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}
    parts = said({"type": "input_text", "text": "see", **mark}, {"type": "input_image", "image_url": picture_uri(), **mark})
    create(http, input=parts, prompt_cache_options={"mode": "explicit", "ttl": "30m"}, prompt_cache_retention="24h")
    assert [type(segment) for segment in front.engine.requests[-1].segments] == [TextSegment, ImageSegment]


def test_instructions_and_items_are_read_in_order(http: httpx.Client, front: RunningFront) -> None:
    items: list[dict[str, object]] = [
        {"role": "user", "content": [{"type": "input_text", "text": "what is this?"}, {"type": "input_image", "image_url": picture_uri()}]},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [{"type": "output_text", "text": "red"}]},
        {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": uri(encoded_picture(32, 32)).partition(",")[2]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "user", "content": "hi"},
    ]
    create(http, input=items, instructions="be brief")

    assert spelled(front.engine.requests[-1]) == ["be brief", "what is this?", "picture", "red", "picture", "hi"]


def test_an_answer_is_accepted_as_history(http: httpx.Client, front: RunningFront) -> None:
    first = http.post("/v1/responses", json=STORY_BODY).json()
    create(http, input=[{"role": "user", "content": "tell a story"}, *first["output"], {"role": "user", "content": "hi"}])

    kinds = [type(segment) for segment in front.engine.requests[-1].segments]
    assert kinds == [TextSegment, TextSegment, ImageSegment, TextSegment, ImageSegment, TextSegment]


def test_an_answer_is_accepted_as_the_official_client_dumps_it(client: OpenAI, http: httpx.Client, front: RunningFront) -> None:
    """A dump holds null for every field that answers elsewhere may have."""
    first = client.responses.create(model=MODEL, input="tell a story", tools=[{"type": "image_generation"}])
    dumped = [item.model_dump() for item in first.output]
    create(http, input=[*dumped, {"role": "user", "content": "hi"}], reasoning={"context": "auto", "mode": "pro"})
    assert len(front.engine.requests[-1].segments) == len(dumped) + 1


def test_a_response_continues_another(client: OpenAI, front: RunningFront) -> None:
    first = client.responses.create(model=MODEL, input="tell a story", tools=[{"type": "image_generation"}])
    second = client.responses.create(model=MODEL, input="hi", previous_response_id=first.id)
    third = client.responses.create(model=MODEL, input="bye", previous_response_id=second.id)

    assert third.previous_response_id == second.id
    assert spelled(front.engine.requests[-1]) == ["tell a story", STORY[0], "picture", STORY[1], "picture", "hi", "hello wörld 🙂", "bye"]


def test_nothing_continues_what_is_not_there(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.responses.create(model=MODEL, input="hi", previous_response_id="resp_0")
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_logprobs_are_included_on_request(http: httpx.Client) -> None:
    events = events_of(http, {"model": MODEL, "input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2})
    (done,) = [event for event in events if event.type == "response.output_text.done"]

    assert done.logprobs[0].logprob == -0.25
    assert len(done.logprobs[0].top_logprobs or []) == 2


def test_an_answer_that_was_cut_off_is_incomplete(http: httpx.Client) -> None:
    whole = create(http, input="be cut off")
    last = events_of(http, {"model": MODEL, "input": "be cut off"})[-1]

    assert whole.status == "incomplete" and whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert last.type == "response.incomplete" and last.response.output[0].type == "message"
    assert last.response.output[0].status == "incomplete"


def test_an_answer_that_wants_a_picture_too_many_is_incomplete() -> None:
    """For the one reason of length that the official types have: strict clients read no other."""

    def script(request: Request) -> list[list[Output]]:
        num_images = request.image.max_images
        ended = FinishedOutput(request.request_id, FinishReason.LENGTH, Usage(completion_text_tokens=1, num_images=num_images))
        return [*tokens(request, "w"), *(step for index in range(num_images) for step in drawn(request, index)), [ended]]

    with running_front(ScriptedEngine(script), family="interleaved") as front, front.http() as http:
        answers = [
            http.post("/v1/responses", json={"model": MODEL, "input": "hi", "tools": [tool]}).json()
            for tool in ({"type": "image_generation", "size": "32x32"}, {"type": "image_generation", "size": "32x32", "max_images": 1})
        ]
    assert [answer["incomplete_details"]["reason"] for answer in answers] == ["max_output_tokens"] * 2
    assert all(item["status"] == "completed" for answer in answers for item in answer["output"] if item["type"] != "message")


def test_a_kept_response_is_fetched_again(client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="hi")
    assert client.responses.retrieve(made.id).output == made.output


def test_a_streamed_response_is_fetched_as_it_ended(http: httpx.Client, client: OpenAI) -> None:
    last = events_of(http, STORY_BODY)[-1]
    assert last.type == "response.completed"
    assert client.responses.retrieve(last.response.id) == last.response


def test_a_stream_is_read_again_after_any_event(http: httpx.Client, client: OpenAI) -> None:
    events = events_of(http, STORY_BODY)
    assert events[0].type == "response.created"
    again = list(client.responses.retrieve(events[0].response.id, stream=True, starting_after=4))

    assert [event.sequence_number for event in again] == [event.sequence_number for event in events[5:]]
    assert again[-1].type == "response.completed"


@pytest.mark.parametrize("is_background", [False, True])
def test_a_response_that_is_no_stream_is_not_fetched_as_one(client: OpenAI, is_background: bool) -> None:
    """Its only piece came as an event called 200, which is none of the API's."""
    made = client.responses.create(model=MODEL, input="hi", background=is_background)
    with pytest.raises(BadRequestError) as caught:
        client.responses.retrieve(made.id, stream=True)
    assert caught.value.param == "stream"


def test_what_is_not_to_be_stored_is_not_fetched(client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="hi", store=False)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(made.id)


def test_a_deleted_response_is_gone(client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="hi")
    client.responses.delete(made.id)

    with pytest.raises(NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(BadRequestError):
        client.responses.create(model=MODEL, input="hi", previous_response_id=made.id)


def test_the_events_of_a_deleted_response_are_gone_at_once(http: httpx.Client, client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="hi")
    assert http.get(f"/v1/streams/{made.id}").status_code == 200
    client.responses.delete(made.id)
    assert http.get(f"/v1/streams/{made.id}").status_code == 404


def test_the_idempotency_key_of_a_deleted_response_begins_another(http: httpx.Client, client: OpenAI) -> None:
    body, headers = {"model": MODEL, "input": "hi"}, {"idempotency-key": "deleted"}
    first, again = (http.post("/v1/responses", json=body, headers=headers).json()["id"] for _ in range(2))
    client.responses.delete(first)
    later = http.post("/v1/responses", json=body, headers=headers).json()["id"]
    assert first == again != later


def test_the_input_is_listed_in_full_form(http: httpx.Client, client: OpenAI) -> None:
    parts = said({"type": "input_text", "text": "what?"}, {"type": "input_image", "image_url": picture_uri()})
    made = create(http, input=[*parts, {"role": "assistant", "content": "red"}, {"role": "user", "content": "hi"}])
    listed = client.responses.input_items.list(made.id, order="asc", limit=2)
    ids = [item.id or "" for item in client.responses.input_items.list(made.id).data]
    rest = client.responses.input_items.list(made.id, order="asc", after=ids[1])

    assert [item.type for item in listed.data] == ["message", "message"] and listed.has_more
    assert [item.id for item in (*listed.data, *rest.data)] == ids[::-1] and not rest.has_more


def test_what_the_model_said_and_thought_is_listed_as_its_answers_have_it(http: httpx.Client, client: OpenAI) -> None:
    """Words of the model lacked ``logprobs``, which clients that check what they read demand, and plans lacked their words."""
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "a cat"}]}
    made = create(http, input=[{"role": "assistant", "content": "red"}, thought, {"role": "user", "content": "hi"}])
    said_before, plan, _ = http.get(f"/v1/responses/{made.id}/input_items?order=asc").json()["data"]

    assert said_before["content"] == [{"type": "output_text", "text": "red", "annotations": [], "logprobs": []}]
    assert {name: plan[name] for name in thought} == thought


@pytest.fixture
def waiting() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(by_prompt)) as running:
        yield running


def test_background_work_goes_on_without_a_reader(waiting: RunningFront) -> None:
    client = waiting.openai()
    queued = client.responses.create(model=MODEL, input="wait", background=True)
    running = client.responses.retrieve(queued.id)
    waiting.engine.release()
    waiting.engine.wait_until(lambda: client.responses.retrieve(queued.id).status == "incomplete")

    assert (queued.status, running.status) == ("queued", "in_progress")
    assert queued.background and client.responses.retrieve(queued.id).output_text == "w"


def test_background_work_is_streamed_from_where_the_client_is(waiting: RunningFront) -> None:
    client = waiting.openai()
    with client.responses.create(model=MODEL, input="wait", background=True, stream=True) as stream:
        first = next(iter(stream))
    assert first.type == "response.created"
    waiting.engine.release()
    rest = list(client.responses.retrieve(first.response.id, stream=True, starting_after=first.sequence_number))

    assert [event.sequence_number for event in rest] == list(range(1, len(rest) + 1))
    assert rest[-1].type == "response.incomplete"


@pytest.mark.parametrize("is_stream", [False, True])
def test_background_work_is_cancelled(waiting: RunningFront, is_stream: bool) -> None:
    client = waiting.openai()
    if is_stream:
        with client.responses.create(model=MODEL, input="wait", background=True, stream=True) as stream:
            event = next(iter(stream))
            assert event.type == "response.created"
            response_id = event.response.id
    else:
        response_id = client.responses.create(model=MODEL, input="wait", background=True).id
    cancelled = client.responses.cancel(response_id)

    assert cancelled.status == client.responses.retrieve(response_id).status == "cancelled"
    waiting.engine.wait_until(lambda: len(waiting.engine.aborted) == 1)


def test_the_words_of_a_response_that_was_cancelled_are_kept(waiting: RunningFront) -> None:
    """They had been sent, and were neither in its output nor before what continued it."""
    client = waiting.openai()
    with client.responses.create(model=MODEL, input="wait", background=True, stream=True) as stream:
        response_id = next(event.response.id for event in stream if event.type == "response.created")
        assert next(event.delta for event in stream if event.type == "response.output_text.delta") == "w"
    (message,) = client.responses.cancel(response_id).output
    client.responses.create(model=MODEL, input="hi", previous_response_id=response_id)

    assert message.type == "message" and message.status == "incomplete"
    assert spelled(waiting.engine.requests[-1]) == ["wait", "w", "hi"]


def test_background_work_is_ended_by_its_deletion(waiting: RunningFront) -> None:
    client = waiting.openai()
    response = client.responses.create(model=MODEL, input="wait", background=True)
    client.responses.delete(response.id)

    waiting.engine.wait_until(lambda: len(waiting.engine.aborted) == 1)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(response.id)


def test_a_response_outlives_its_engine(waiting: RunningFront) -> None:
    with waiting.http() as http, http.stream("POST", "/v1/responses", json={"model": MODEL, "input": "wait", "stream": True}) as response:
        lines = response.iter_lines()
        next(line for line in lines if "output_text.delta" in line and line.startswith("data"))
        waiting.engine.crash()
        waiting.engine.wait_until(lambda: waiting.engine.num_starts == 2)
        waiting.engine.release()
        rest = [EVENT.validate_json(event.payload, strict=True) for event in server_events(lines)]

    # Before the crash: created, in_progress, the item, its part, one delta.
    assert [event.sequence_number for event in rest] == list(range(5, 5 + len(rest)))
    assert rest[-1].type == "response.incomplete" and rest[-1].response.output_text == "w"


def test_a_response_that_brings_down_two_engines_has_failed() -> None:
    body = {"model": MODEL, "input": "boom", "stream": True}
    with (
        running_front(ScriptedEngine(lambda request: [[]])) as front,
        front.http() as http,
        http.stream("POST", "/v1/responses", json=body) as response,
    ):
        for num_tries in (1, 2):
            front.engine.wait_for_requests(num_tries)
            front.engine.crash()
        last = EVENT.validate_json(server_events(response.iter_lines())[-1].payload, strict=True)

    assert last.type == "response.failed" and last.response.error is not None
    assert (last.response.status, last.response.error.code) == ("failed", "server_error")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"input": 3}, "input", "invalid_value"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0]", "invalid_value"),
        ({"input": said({"type": "input_file", "file_id": "x"})}, "input[0].content[0]", "invalid_value"),
        (
            {"input": said({"type": "input_image", "file_id": "x"})},
            "input[0].content[0].file_id",
            "invalid_image",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{**TOOL, "size": "big"}]}, "tools[0].size", "invalid_value"),
        ({"tools": [{**TOOL, "size": "33x33"}]}, "tools[0].size", "invalid_value"),
        ({"tools": [{**TOOL, "background": "transparent"}]}, "tools[0].background", "unsupported_parameter"),
        ({"tools": [{**TOOL, "input_fidelity": "high"}]}, "tools[0].input_fidelity", "unsupported_parameter"),
        ({"tools": [{**TOOL, "partial_images": 2}]}, "tools[0].partial_images", "unsupported_parameter"),
        ({"tools": [{**TOOL, "colour": "red"}]}, "tools[0].colour", "unknown_parameter"),
        ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"structured_outputs": {"choice": ["a"]}, "text": {"format": {"type": "json_object"}}}, "text.format", "invalid_value"),
        ({"structured_outputs": {"choice": ["a"]}, "tools": [TOOL]}, "structured_outputs.choice", "unsupported_parameter"),
        ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
        ({"background": True, "store": False}, "background", "invalid_value"),
        ({"include": ["file_search_call.results"]}, "include[0]", "unsupported_parameter"),
        ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"model": "gpt-5"}, "model", "model_not_found"),
    ],
)
def test_what_cannot_be_done_is_refused_by_the_fields_name(http: httpx.Client, body: dict[str, object], param: str, code: str) -> None:
    answer = http.post("/v1/responses", json={"model": MODEL, "input": "hi", **body})

    assert (error_of(answer)["param"], error_of(answer)["code"]) == (param, code), answer.text
    assert answer.status_code == (404 if code == "model_not_found" else 400)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"input"', b'{"model": "tiny_a", "input": "a"} , {}', b'{"a": 1}, "request": {}'])
def test_what_is_no_object_is_refused(http: httpx.Client, body: bytes) -> None:
    answer = http.post("/v1/responses", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, error_of(answer)["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("path", ["/v1/responses/resp_0", "/v1/responses/resp_0/input_items", "/v1/responses/resp_0?stream=true"])
def test_a_response_that_is_not_there_is_not_found(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, error_of(answer)["code"]) == (404, "response_not_found")


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=nothing"])
def test_a_list_is_bounded(http: httpx.Client, query: str) -> None:
    response_id = json.loads(http.post("/v1/responses", json={"model": MODEL, "input": "hi"}).content)["id"]
    answer = http.get(f"/v1/responses/{response_id}/input_items?{query}")
    assert (answer.status_code, error_of(answer)["param"]) == (400, query.partition("=")[0])
