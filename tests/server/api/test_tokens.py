"""Text to tokens and back over HTTP, as the model would read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.server.api.chats import TOKENIZER, error_of, hello, user
from tests.server.picture_files import picture_uri
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

JSON = {"content-type": "application/json"}
TEXT = "zażółć <|im_end|> 🙂"


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(hello)) as running:
        yield running


def test_a_text_goes_to_tokens_and_comes_back(front: RunningFront) -> None:
    with front.http() as http:
        there = http.post("/tokenize", json={"model": "tiny_a", "prompt": TEXT}).json()
        back = http.post("/detokenize", json={"tokens": there["tokens"]}).json()
    assert there["tokens"] == [TOKENIZER.bos_id, *TOKENIZER.encode(TEXT), TOKENIZER.eos_id]
    assert (there["count"], there["max_model_len"], there["token_strs"]) == (len(there["tokens"]), 32768, None)
    assert back == {"prompt": TEXT}


def test_markers_can_be_left_out_and_tokens_spelled(front: RunningFront) -> None:
    body = {"prompt": "abc", "add_special_tokens": False, "return_token_strs": True}
    with front.http() as http:
        there = http.post("/tokenize", json=body).json()
    assert there["tokens"] == TOKENIZER.encode("abc") and "".join(there["token_strs"]) == "abc"


def test_a_conversation_is_counted_as_a_prompt_is(front: RunningFront) -> None:
    messages = [user("hello"), {"role": "assistant", "content": "hi"}]
    with front.http() as http:
        there = http.post("/tokenize", json={"messages": messages}).json()
    begin, end = [TOKENIZER.bos_id], [TOKENIZER.eos_id]
    assert there["tokens"] == begin + TOKENIZER.encode("hello") + end + begin + TOKENIZER.encode("hi") + end


PICTURE = user([{"type": "image_url", "image_url": {"url": picture_uri()}}])


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [user("a")]}, 400, "prompt"),
        ("/tokenize", {"promt": "a"}, 400, "promt"),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404, "model"),
        ("/tokenize", {"messages": [PICTURE]}, 400, "messages[0]"),
        ("/detokenize", {"tokens": [1, 320]}, 400, "tokens[1]"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("/detokenize", {}, 400, "tokens"),
        ("/tokenize", {"messages": [user("a" * 500_001), user("b" * 500_000)]}, 400, "messages"),
    ],
)
def test_bad_input_is_refused_by_name(front: RunningFront, path: str, body: dict[str, object], status: int, param: str) -> None:
    with front.http() as http:
        response = http.post(path, json=body)
    assert (response.status_code, error_of(response)["param"]) == (status, param)


def test_others_are_answered_while_a_long_text_is_read(front: RunningFront) -> None:
    """The event loop did nothing else meanwhile, for ten seconds with a text of a million characters."""
    with front.http() as http, ThreadPoolExecutor(1) as pool:
        long = pool.submit(
            http.post, "/tokenize", content=json.dumps({"prompt": "🙂" * 200_000}, ensure_ascii=False), headers=JSON, timeout=60
        )
        num_answered = 0
        while not long.done():
            assert http.get("/livez").status_code == 200
            num_answered += 1
    assert long.result().json()["count"] > 200_000 and num_answered > 10


def test_as_many_tokens_as_are_read_come_back(front: RunningFront) -> None:
    with front.http() as http:
        response = http.post("/detokenize", json={"tokens": [TOKENIZER.encode("a")[0]] * 1_000_000}, timeout=60)
    assert response.json() == {"prompt": "a" * 1_000_000}
