"""The time to the first preview of a request: counted once for each request that has previews."""

from __future__ import annotations

from tests.server.api.pictures import drawing
from tests.server.running_front import running_front
from tests.server.scripted_engine import ScriptedEngine

SERIES = "plait_time_to_first_preview_seconds_count"


def test_the_first_preview_of_a_request_is_timed_and_no_other() -> None:
    body = {"model": "tiny_a", "prompt": "a cat", "stream": True}
    with running_front(ScriptedEngine(drawing)) as front, front.http() as http, front.metrics_http() as metrics:
        assert http.post("/v1/images/generations", json=body).status_code == 200
        assert f"{SERIES} 0.0" in metrics.get("/metrics").text
        assert http.post("/v1/images/generations", json=body | {"partial_images": 3}).status_code == 200
        assert f"{SERIES} 1.0" in metrics.get("/metrics").text
