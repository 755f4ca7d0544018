"""litellm before this server passes pictures through, in both directions, whole and streamed, and takes answers back as history.

Its pins exclude ours, so it is installed into an environment of its own, once for each state of ``requirements.txt``.
"""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.messages import ImageSegment, TextSegment
from tests.server.api.chats import STORY, story
from tests.server.picture_files import picture_uri
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

FOLDER = Path(__file__).parent
ENVIRONMENT = FOLDER / ".venv"
INSTALL_TIMEOUT_S = 240
ASK_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def python() -> Path:
    """Return the interpreter that has litellm."""
    wanted = (FOLDER / "requirements.txt").read_text()
    mark = ENVIRONMENT / "installed.txt"
    interpreter = ENVIRONMENT / "bin" / "python"
    if not mark.exists() or mark.read_text() != wanted:
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        install = [str(interpreter), "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        subprocess.run([*install, "-r", str(FOLDER / "requirements.txt")], timeout=INSTALL_TIMEOUT_S, check=True)
        mark.write_text(wanted)
    return interpreter


@pytest.fixture
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(story)) as front:
        yield front


@pytest.mark.slow
def test_litellm_passes_pictures_through_in_both_directions(python: Path, front: RunningFront) -> None:
    done = subprocess.run(
        [python, FOLDER / "ask.py", f"{front.url}/v1", "tiny_a"],
        input=picture_uri(),
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=ASK_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = "".join(STORY)
    seen = {"text": text, "pictures": [True, True], "second_text": text, "streamed_text": text, "streamed_pictures": [True, True]}
    assert json.loads(done.stdout.splitlines()[-1]) == seen
    num_pictures = [sum(isinstance(segment, ImageSegment) for segment in request.segments) for request in front.engine.requests]
    assert num_pictures == [1, 3, 1]
    kinds = [type(segment) for segment in front.engine.requests[1].segments]
    assert kinds == [TextSegment, ImageSegment, TextSegment, ImageSegment, TextSegment, ImageSegment, TextSegment], "in their order"
