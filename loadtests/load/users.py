"""Locust users that stream answers: one class a scenario, and one that mixes them.

    locust -f loadtests/load/users.py ChatUser --host http://127.0.0.1:8000 --headless -u 4 -t 60s

Besides the request itself locust's table gets a line for each thing a person waits for: ``first words``, ``between words``, ``first
picture`` and ``whole answer``. ``PLAIT_KEY`` is the key, if the server asks for one.
Burst and soak are files of their own beside this one.
"""

from __future__ import annotations

import itertools
import os
import time
import zlib
from collections.abc import Iterator
from typing import ClassVar

from locust import HttpUser, between, events, task
from locust.env import Environment

from loadtests.load.asks import Ask, AskSource, Effort, Scenario
from loadtests.load.streaming import Timings, read_answer

MIX = {Scenario.CHAT: 6, Scenario.TEXT_TO_IMAGE: 2, Scenario.EDIT: 1, Scenario.STORY: 1}
"""Shares of mixed traffic."""
TIMEOUT_S = 600.0


def key_headers() -> dict[str, str]:
    """Return what sends the key of the environment."""
    return {"Authorization": f"Bearer {os.environ.get('PLAIT_KEY', 'none')}"}


class StreamingUser(HttpUser):
    """Sends one request after the other. Subclasses say what."""

    abstract = True
    wait_time = between(0.0, 0.2)
    scenarios: ClassVar[dict[Scenario, int]] = {}
    effort: ClassVar[Effort] = Effort()
    _numbers: ClassVar[Iterator[int]] = itertools.count()
    """Of the users of this process: no two of them ask the same things in the same order, however many begin at once."""

    def on_start(self) -> None:
        """Find out what the model is called; each user asks other things, the same in every run."""
        self._headers = key_headers()
        model = self.client.get("/v1/models", headers=self._headers, name="models").json()["data"][0]["id"]
        number = next(self._numbers)
        self._source = AskSource(model, zlib.crc32(f"{type(self).__name__} {number}".encode()), self.effort)
        self._order = [scenario for scenario, share in self.scenarios.items() for _ in range(share)]
        self._turn = number

    @task
    def ask(self) -> None:
        """Ask the next thing."""
        self._turn += 1
        self._send(self._source.draw(self._order[self._turn % len(self._order)]))

    def _send(self, ask: Ask) -> None:
        headers = {**self._headers, "x-prefix-key": ask.prefix_key}
        started = time.perf_counter()
        with self.client.post(
            "/v1/chat/completions",
            json=ask.body,
            headers=headers,
            stream=True,
            timeout=TIMEOUT_S,
            name=ask.scenario.value,
            catch_response=True,
        ) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return
            timings = read_answer(response.raw.stream(decode_content=False), time.perf_counter, started)
            if not timings.is_complete:
                response.failure(timings.error or "the stream broke off")
                return
        report(self.environment, ask.scenario, timings)


def report(environment: Environment, scenario: Scenario, timings: Timings) -> None:
    """Hand the timings to locust's statistics."""
    waits = [("whole answer", timings.end_s), ("first words", timings.first_text_s), ("first picture", timings.first_picture_s)]
    waits += [("between words", gap) for gap in timings.gaps]
    for kind, seconds in waits:
        if seconds is not None:
            environment.events.request.fire(
                request_type=kind,
                name=scenario.value,
                response_time=1000 * seconds,
                response_length=0,
                exception=None,
                context={},
            )


class ChatUser(StreamingUser):
    scenarios: ClassVar[dict[Scenario, int]] = {Scenario.CHAT: 1}


class TextToImageUser(StreamingUser):
    scenarios: ClassVar[dict[Scenario, int]] = {Scenario.TEXT_TO_IMAGE: 1}


class EditUser(StreamingUser):
    scenarios: ClassVar[dict[Scenario, int]] = {Scenario.EDIT: 1}


class StoryUser(StreamingUser):
    scenarios: ClassVar[dict[Scenario, int]] = {Scenario.STORY: 1}


class MixedUser(StreamingUser):
    scenarios: ClassVar[dict[Scenario, int]] = MIX


def fail_on_errors(environment: Environment, **_: object) -> None:
    """Exit with 1 when a request failed, so that a script notices."""
    if environment.stats.total.num_failures:
        environment.process_exit_code = 1


events.quitting.add_listener(fail_on_errors)
