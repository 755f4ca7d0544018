"""Chat through litellm, whole, in a second turn and streamed, with a picture sent and pictures received.

Prints what it saw as one line of JSON.

Runs in an environment of its own. Usage: python ask.py BASE_URL MODEL
"""

from __future__ import annotations

import base64
import json
import sys

import litellm  # type: ignore[import-not-found]

PICTURE = b"\x89PNG\r\n\x1a\n"


def main(base_url: str, model: str) -> None:
    sent = sys.stdin.read()
    question = {"role": "user", "content": [{"type": "text", "text": "go on"}, {"type": "image_url", "image_url": {"url": sent}}]}
    asked = {
        "model": f"openai/{model}",
        "api_base": base_url,
        "api_key": "none",
        "messages": [question],
        "modalities": ["text", "image"],
        "max_retries": 0,
        "timeout": 60,
    }
    message = litellm.completion(**asked).choices[0].message
    history = [question, message, {"role": "user", "content": "and then?"}]
    second = litellm.completion(**{**asked, "messages": history}).choices[0].message
    chunks = [chunk.choices[0].delta for chunk in litellm.completion(**asked, stream=True) if chunk.choices]
    streamed = [image for delta in chunks for image in getattr(delta, "images", None) or []]
    seen = {
        "text": message.content,
        "pictures": [is_picture(image) for image in message.images],
        "second_text": second.content,
        "streamed_text": "".join(delta.content or "" for delta in chunks),
        "streamed_pictures": [is_picture(image) for image in streamed],
    }
    print(json.dumps(seen))


def is_picture(image: dict[str, dict[str, str]]) -> bool:
    """Whether an entry of ``images`` holds a PNG file."""
    kind, _, encoded = image["image_url"]["url"].partition(",")
    return kind == "data:image/png;base64" and base64.b64decode(encoded).startswith(PICTURE)


main(*sys.argv[1:])
