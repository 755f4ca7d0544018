"""Chat completions through the official client, over a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessage, ParsedChatCompletionMessage

from server.messages import ImageSegment, OutputMode, Request, TextSegment
from server.settings import Settings
from tests.server.api.chats import STORY, endless, error_of, hello, server_events, spelled, story, stream_events, user
from tests.server.picture_files import picture_uri
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import Output, ScriptedEngine

DRAWING = {"modalities": ["text", "image"]}
HI = [{"role": "user", "content": "hi"}]


def by_prompt(request: Request) -> list[list[Output]]:
    """Answer as the first message asks: a story, a wait, or hello."""
    return {"story": story, "wait": endless}.get(spelled(request)[0], hello)(request)


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(by_prompt), Settings(keep_alive_s=0.1)) as running:
        yield running


def tell_story(front: RunningFront) -> ChatCompletion:
    return front.openai().chat.completions.create(model="tiny_a", messages=[{"role": "user", "content": "story"}], extra_body=DRAWING)


def parts_of(message: ChatCompletionMessage | ParsedChatCompletionMessage[None]) -> list[str]:
    """Spell the order of an answer, its pictures resolved."""
    fields = message.model_dump()
    return [
        part["text"] if part["type"] == "text" else fields["images"][part["image_index"]]["image_url"]["url"][:22]
        for part in fields["content_parts"]
    ]


STORY_PARTS = [STORY[0], "data:image/png;base64,", STORY[1], "data:image/png;base64,"]


def test_an_answer_in_words_is_plain_openai(front: RunningFront) -> None:
    completion = front.openai().chat.completions.create(model="tiny_a", messages=[{"role": "user", "content": "hi"}])
    (choice,) = completion.choices
    assert choice.message.content == "hello wörld 🙂"
    assert choice.finish_reason == "stop"
    assert completion.usage is not None and (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 3)


def test_an_answer_with_two_pictures_keeps_its_order(front: RunningFront) -> None:
    message = tell_story(front).choices[0].message
    assert message.content == "".join(STORY)
    assert parts_of(message) == STORY_PARTS
    assert [part["index"] for part in message.model_dump()["content_parts"]] == [0, 1, 2, 3]


def test_the_stream_says_what_the_whole_answer_says(front: RunningFront) -> None:
    chunks = list(
        front.openai().chat.completions.create(
            model="tiny_a", messages=[{"role": "user", "content": "story"}], stream=True, extra_body=DRAWING
        )
    )
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "".join(STORY)
    pictures = [image for chunk in chunks for choice in chunk.choices for image in choice.delta.model_dump().get("images") or []]
    assert [image["index"] for image in pictures] == [0, 1]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_stream_helper_puts_the_answer_together(front: RunningFront) -> None:
    with front.openai().chat.completions.stream(
        model="tiny_a", messages=[{"role": "user", "content": "story"}], extra_body={**DRAWING, "image": {"progress": True}}
    ) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "content.delta" in kinds
    assert message.content == "".join(STORY)
    assert parts_of(message) == STORY_PARTS
    assert message.model_dump()["images"] == tell_story(front).choices[0].message.model_dump()["images"]


def test_the_stream_helper_puts_several_answers_together(front: RunningFront) -> None:
    with front.openai().chat.completions.stream(
        model="tiny_a", messages=[{"role": "user", "content": "story"}], n=3, extra_body=DRAWING
    ) as stream:
        completion = stream.get_final_completion()
    assert [parts_of(choice.message) for choice in completion.choices] == [STORY_PARTS] * 3


def test_a_transcript_is_accepted_as_history_in_its_order(front: RunningFront) -> None:
    message = tell_story(front).choices[0].message
    history = [user("story"), message.model_dump(), user("go on")]
    with front.http() as http:
        response = http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": history, **DRAWING})
    assert response.status_code == 200, response.text
    prompt = front.engine.requests[-1]
    assert spelled(prompt) == ["story", STORY[0], "picture", STORY[1], "picture", "go on"]
    first = next(segment for segment in prompt.segments if isinstance(segment, ImageSegment))
    assert first.vae is not None and first.vae.rgb[:3] != b"\x00\x00\x00"


def test_a_streamed_message_is_accepted_as_history(front: RunningFront) -> None:
    with front.openai().chat.completions.stream(
        model="tiny_a", messages=[{"role": "user", "content": "story"}], extra_body=DRAWING
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    with front.http() as http:
        response = http.post(
            "/v1/chat/completions", json={"model": "tiny_a", "messages": [user("story"), message.model_dump(), user("on")]}
        )
    assert response.status_code == 200, response.text
    assert len(front.engine.requests[-1].segments) == 6


def test_every_event_is_numbered_and_the_last_is_done(front: RunningFront) -> None:
    with front.http() as http:
        events = stream_events(http, {})
    assert [event.event_id for event in events] == [str(number) for number in range(1, len(events) + 1)]
    assert events[-1].payload == "[DONE]"


def test_a_stream_is_not_buffered_on_its_way(front: RunningFront) -> None:
    with (
        front.http() as http,
        http.stream("POST", "/v1/chat/completions", json={"model": "tiny_a", "messages": HI, "stream": True}) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        assert (response.headers["x-accel-buffering"], response.headers["cache-control"]) == ("no", "no-cache")
        assert response.headers["x-request-id"]


def test_usage_comes_last_and_only_when_asked_for(front: RunningFront) -> None:
    with front.http() as http:
        plain = [json.loads(event.payload) for event in stream_events(http, {})[:-1]]
        summed = [json.loads(event.payload) for event in stream_events(http, {"stream_options": {"include_usage": True}})[:-1]]
    assert not any("usage" in chunk for chunk in plain)
    assert summed[-1]["choices"] == [] and summed[-1]["usage"]["total_tokens"] == 10
    assert [chunk["usage"] for chunk in summed[:-1]] == [None] * (len(summed) - 1), "as OpenAI documents it"


def test_load_generators_that_ask_for_usage_all_along_get_it_at_the_end(front: RunningFront) -> None:
    options: dict[str, object] = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    with front.http() as http:
        chunks = [json.loads(event.payload) for event in stream_events(http, options)[:-1]]
    assert [chunk["usage"] is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_progress_comes_outside_the_choices_and_only_when_asked_for(front: RunningFront) -> None:
    body: dict[str, object] = {"model": "tiny_a", "messages": [user("story")], **DRAWING}
    with front.http() as http:
        silent = [event.payload for event in stream_events(http, body)]
        told = [json.loads(event.payload) for event in stream_events(http, {**body, "image": {"progress": True}})[:-1]]
    assert not any("image_progress" in payload for payload in silent)
    progress = [chunk for chunk in told if "image_progress" in chunk]
    assert all(chunk["choices"] == [] for chunk in progress)
    assert [chunk["image_progress"]["step"] for chunk in progress] == [1, 2, 3, 1, 2, 3]


def test_a_stop_string_is_never_sent_and_ends_the_engine_s_work(front: RunningFront) -> None:
    num_aborted = len(front.engine.aborted)
    completion = front.openai().chat.completions.create(model="tiny_a", messages=[{"role": "user", "content": "hi"}], stop=["wör"])
    assert completion.choices[0].message.content == "hello "
    assert completion.choices[0].finish_reason == "stop"
    front.engine.wait_until(lambda: len(front.engine.aborted) == num_aborted + 1)


def test_each_token_is_scored_when_asked_for(front: RunningFront) -> None:
    completion = front.openai().chat.completions.create(
        model="tiny_a", messages=[{"role": "user", "content": "hi"}], logprobs=True, top_logprobs=2
    )
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert b"".join(bytes(entry.bytes or []) for entry in logprobs.content) == "hello wörld 🙂".encode()
    assert {len(entry.top_logprobs) for entry in logprobs.content} == {2}


def test_streamed_scores_are_those_of_the_text_they_come_with(front: RunningFront) -> None:
    with front.http() as http:
        events = stream_events(http, {"logprobs": True})
    for event in events[:-1]:
        for choice in json.loads(event.payload)["choices"]:
            scored = choice["logprobs"]["content"] if choice["logprobs"] else []
            assert b"".join(bytes(entry["bytes"]) for entry in scored).decode() == (choice["delta"].get("content") or "")


def test_several_answers_share_a_prompt_and_differ_in_seed(front: RunningFront) -> None:
    completion = front.openai().chat.completions.create(model="tiny_a", messages=[{"role": "user", "content": "hi"}], n=3, seed=7)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert [request.sampling.seed for request in front.engine.requests[-3:]] == [7, 8, 9]


def test_what_is_asked_reaches_the_engine(front: RunningFront) -> None:
    """Every sampling field that is accepted is obeyed: it arrives under its own name."""
    front.openai().chat.completions.create(
        model="tiny_a",
        messages=[{"role": "user", "content": "hi"}],
        temperature=0.5,
        top_p=0.9,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        logit_bias={"5": 10},
        max_completion_tokens=12,
        user="ann",
        extra_body={"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 2, "ignore_eos": True, "priority": -5},
    )
    request = front.engine.requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 3, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1.0, -1.0, 1.1)
    assert (sampling.logit_bias, sampling.max_tokens, sampling.min_tokens, sampling.ignore_eos) == ({5: 10.0}, 12, 2, True)
    assert request.priority == 5 and request.tenant


@pytest.mark.parametrize("off", [0, -1])
def test_drawing_among_all_tokens_is_asked_for_as_the_peers_write_it(front: RunningFront, off: int) -> None:
    """vLLM and SGLang switch ``top_k`` off with -1, which was refused."""
    front.openai().chat.completions.create(
        model="tiny_a", messages=[{"role": "user", "content": "hi"}], temperature=1, extra_body={"top_k": off}
    )
    assert front.engine.requests[-1].sampling.top_k == 0


def test_a_top_p_of_nothing_leaves_the_likeliest_token(front: RunningFront) -> None:
    front.openai().chat.completions.create(model="tiny_a", messages=[{"role": "user", "content": "hi"}], temperature=1.5, top_p=0)
    sampling = front.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p) == (0.0, 1.0)


def test_requests_of_one_user_have_one_account_and_those_of_another_another(front: RunningFront) -> None:
    def tenant_of(**fields: str) -> str:
        front.openai().chat.completions.create(model="tiny_a", messages=[{"role": "user", "content": "hi"}], **fields)  # type: ignore[call-overload]
        return front.engine.requests[-1].tenant

    ann, bob, nobody = tenant_of(safety_identifier="ann"), tenant_of(user="bob"), tenant_of()
    assert tenant_of(user="ann", safety_identifier="ann") == ann
    assert len({ann, bob, nobody}) == 3 and "ann" not in ann


def test_names_of_speakers_are_taken_and_change_nothing(front: RunningFront) -> None:
    spoken = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}]
    asked = {"role": "user", "content": "again"}
    prompts = []
    with front.http() as http:
        for messages in ([*spoken, asked], [{**message, "name": f"speaker_{place}"} for place, message in enumerate([*spoken, asked])]):
            assert http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": messages}).status_code == 200
            prompts.append(front.engine.requests[-1].segments)
    assert prompts[0] == prompts[1]


def test_a_picture_in_the_prompt_reaches_the_engine(front: RunningFront) -> None:
    content = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": picture_uri()}}]
    with front.http() as http:
        assert http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user(content)]}).status_code == 200
    request = front.engine.requests[-1]
    assert request.mode is OutputMode.TEXT
    assert [type(segment) for segment in request.segments] == [TextSegment, ImageSegment]


def test_metadata_comes_back(front: RunningFront) -> None:
    with front.http() as http:
        answer = http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": HI, "metadata": {"run": "7"}}).json()
    assert answer["metadata"] == {"run": "7"}


def test_a_silent_stream_is_pinged(front: RunningFront) -> None:
    body = {"model": "tiny_a", "messages": [user("wait")], "stream": True}
    with front.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert ": ping" in response.iter_lines()


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_ends_its_request_and_no_other(front: RunningFront, is_stream: bool) -> None:
    num_before = len(front.engine.requests)
    body = {"model": "tiny_a", "messages": [user("wait")], "stream": is_stream}
    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=front.url, timeout=httpx.Timeout(10, read=0.5)) as http:
        if is_stream:
            with http.stream("POST", "/v1/chat/completions", json=body) as response:
                front.engine.wait_until(lambda: len(front.engine.requests) > num_before)
                next(response.iter_lines())
                raise httpx.ReadTimeout("enough")
        http.post("/v1/chat/completions", json=body)
    left = front.engine.requests[num_before].request_id
    front.engine.wait_until(lambda: left in front.engine.aborted)
    assert tell_story(front).choices[0].finish_reason == "stop"


def test_sixteen_streams_at_once_all_finish(front: RunningFront) -> None:
    def talk(number: int) -> str:
        with front.http() as http:
            body: dict[str, object] = {
                "model": "tiny_a",
                "messages": [user("story" if number % 2 else "hi")],
                **(DRAWING if number % 2 else {}),
            }
            return stream_events(http, body)[-1].payload

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(talk, range(16))) == ["[DONE]"] * 16


def test_the_wrong_model_is_not_found(front: RunningFront) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        front.openai().chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found"


def test_nothing_stays_in_flight(front: RunningFront) -> None:
    with front.http() as http:
        front.engine.wait_until(lambda: http.get("/readyz").json()["in_flight"] == 0)


def test_an_answer_outlives_its_engine() -> None:
    with running_front(ScriptedEngine(by_prompt)) as front, front.http() as http:
        body = {"model": "tiny_a", "messages": [user("wait")], "stream": True}
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            while '"content":"w"' not in next(lines):
                pass
            front.engine.crash()
            front.engine.wait_until(lambda: front.engine.num_starts == 2)
            front.engine.release()
            events = server_events(lines)
    assert [event.event_id for event in events] == ["3", "4"] and events[-1].payload == "[DONE]"


def test_a_whole_answer_outlives_its_engine() -> None:
    with running_front(ScriptedEngine(by_prompt)) as front, front.http() as http, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(http.post, "/v1/chat/completions", json={"model": "tiny_a", "messages": [user("wait")]})
        front.engine.wait_for_requests(1)
        front.engine.crash()
        front.engine.wait_until(lambda: front.engine.num_starts == 2)
        front.engine.release()
        response = answer.result()
    assert response.status_code == 200 and response.json()["choices"][0]["message"]["content"] == "w"


def test_a_request_that_brought_down_two_engines_is_not_tried_a_third_time() -> None:
    with running_front(ScriptedEngine(lambda request: [[]])) as front, front.http() as http, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(http.post, "/v1/chat/completions", json={"model": "tiny_a", "messages": [user("boom")]})
        for num_tries in (1, 2):
            front.engine.wait_for_requests(num_tries)
            front.engine.crash()
        response = answer.result()
    assert response.status_code == 500 and error_of(response)["code"] == "poison_request"
    assert len(front.engine.requests) == 2


def test_more_requests_than_the_server_takes_are_told_to_come_back() -> None:
    settings = Settings(max_in_flight=2, max_running=1)
    with running_front(ScriptedEngine(by_prompt), settings) as front, front.http() as http:
        response = http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": HI, "n": 3})
    assert response.status_code == 503 and error_of(response)["code"] == "overloaded"


def test_the_official_client_reads_on_after_a_silence() -> None:
    """A keep-alive with an empty line of its own was taken for an event without data, and ended the client's stream with an error."""
    with running_front(ScriptedEngine(by_prompt), Settings(keep_alive_s=0.02)) as front, front.http() as http:
        chunks = front.openai().chat.completions.create(model="tiny_a", messages=[{"role": "user", "content": "wait"}], stream=True)
        first = next(iter(chunks))
        with http.stream("POST", "/v1/chat/completions", json={"model": "tiny_a", "messages": [user("wait")], "stream": True}) as other:
            lines = other.iter_lines()
            assert [next(line for line in lines if line.startswith(":")) for _ in range(3)] == [": ping"] * 3
        front.engine.release()
        rest = list(chunks)
    assert first.choices[0].delta.content == "" and rest[-1].choices[0].finish_reason == "length"
