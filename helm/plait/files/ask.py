"""Asks a server for words and for a picture and says what came; exits with 1 when something else came. Standard library only.

usage: ask.py URL    with API_KEY, TIMEOUT_S and STEPS in the environment
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.request

PNG = b"\x89PNG\r\n\x1a\n"


def post(url: str, body: dict[str, object]) -> bytes:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('API_KEY', 'none')}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=float(os.environ.get("TIMEOUT_S", "300"))) as answer:
        return bytes(answer.read())


def model_of(url: str) -> str:
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {os.environ.get('API_KEY', 'none')}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["data"][0]["id"])


def main() -> int:
    url = sys.argv[1]
    asked = {"model": model_of(url), "messages": [{"role": "user", "content": "Draw a red circle."}], "max_completion_tokens": 16}
    image = {"num_inference_steps": int(os.environ.get("STEPS", "8")), "max_images": 1}

    answer = json.loads(post(f"{url}/v1/chat/completions", {**asked, "modalities": ["text"]}))
    words = answer["choices"][0]["message"]["content"]
    print(f"words: {words!r}")

    answer = json.loads(post(f"{url}/v1/chat/completions", {**asked, "modalities": ["image"], "image": image}))
    picture = base64.b64decode(answer["choices"][0]["message"]["images"][0]["image_url"]["url"].partition(",")[2])
    print(f"picture: {len(picture)} bytes")
    return 0 if isinstance(words, str) and picture.startswith(PNG) else 1


if __name__ == "__main__":
    sys.exit(main())
