"""The official JavaScript client's Images and Responses APIs against a real server and engine."""

from __future__ import annotations

import pytest

from tests.js.scripts import check_types, run_script


@pytest.fixture(scope="module")
def seen(server_url: str) -> dict[str, dict[str, object]]:
    """Run the script once."""
    return run_script("pictures.mjs", f"{server_url}/v1", "tiny_a")  # type: ignore[return-value]


@pytest.mark.slow
def test_the_scripts_fit_the_clients_types() -> None:
    assert check_types() == ""


def test_a_prompt_becomes_the_same_picture_whole_and_streamed(seen: dict[str, dict[str, object]]) -> None:
    assert seen["generate"]["whole"] == {"file": "png", "size": "64x48", "isCounted": True}
    partial = {"type": "image_generation.partial_image", "file": "webp", "isWhole": False}
    assert seen["generate"]["streamed"] == [partial, partial, {"type": "image_generation.completed", "file": "png", "isWhole": True}]


def test_a_picture_is_edited_whole_and_streamed(seen: dict[str, dict[str, object]]) -> None:
    assert seen["edit"] == {"file": "png", "streamed": ["image_edit.partial_image", "image_edit.completed"]}


def test_a_response_streams_words_pictures_and_partial_pictures(seen: dict[str, dict[str, object]]) -> None:
    respond = seen["respond"]
    types = respond["types"]
    assert isinstance(types, list)
    assert (types[0], types[-1]) == ("response.created", f"response.{respond['status']}")
    assert types.count("response.image_generation_call.partial_image") == 4
    assert respond["isDense"] is True
    assert respond["items"] == ["message", "image_generation_call", "message", "image_generation_call", "message"]
    assert respond["kept"] == {"status": respond["status"], "items": respond["items"]}
