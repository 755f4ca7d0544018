"""Raises the load on a server step by step, finds the knee, and prints the capacity at a service level.

    plait serve &
    python -m loadtests.load.ramp --scenario mixed --users 1 2 4 8 16 --seconds 30

Each level is a number of locust users who ask again as soon as they are answered; the first seconds of a level are not counted. Writes
``OUT.json``, and a report with plots beside it (``OUT.md``, ``OUT.svg``).
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import gevent
from locust.env import Environment
from requests import RequestException, get  # after locust, which has patched what it stands on

from loadtests.load.asks import Effort
from loadtests.load.levels import Level, Ramp, ServiceLevel, Wait
from loadtests.load.machine import machine
from loadtests.load.report import write_report
from loadtests.load.users import ChatUser, EditUser, MixedUser, StoryUser, StreamingUser, TextToImageUser, key_headers
from loadtests.percentile import percentile

USERS: dict[str, type[StreamingUser]] = {
    "chat": ChatUser,
    "text-to-image": TextToImageUser,
    "edit": EditUser,
    "story": StoryUser,
    "mixed": MixedUser,
}
HTTP_KIND = "POST"
WARM_SHARE = 0.2
"""The first part of a level, in which users arrive; not counted."""
LOOK_S = 10.0
FINISH_S = 60.0
"""At the end of a level what is being answered may end, not counted either: the next level begins with an idle server."""


@dataclass(slots=True)
class Collector:
    """Takes what locust reports while it is open: seconds by (scenario, kind of wait), and failures."""

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: int = 0
    is_open: bool = False

    def take(self, request_type: str, name: str, response_time: float, exception: Exception | None, **_: object) -> None:
        """Listen to locust's request event."""
        if not self.is_open:
            return
        if exception is not None:
            self.failures += 1
        elif request_type not in (HTTP_KIND, "GET"):
            self.seconds[name, request_type].append(response_time / 1000)

    def waits(self) -> list[Wait]:
        """Return the quantiles of what came in."""
        return [
            Wait(scenario, kind, len(values), percentile(values, 50), percentile(values, 95), percentile(values, 99))
            for (scenario, kind), values in sorted(self.seconds.items())
        ]


def why_nobody_can_ask(url: str) -> str | None:
    """Return what is wrong where no server that serves a model answers at ``url``."""
    try:
        answer = get(f"{url}/v1/models", headers=key_headers(), timeout=LOOK_S)
    except RequestException as error:
        return f"{url} cannot be reached: {type(error).__name__}; is a server running there?"
    if answer.status_code in (401, 403):
        return f"{url} asks for a key (status {answer.status_code}): set PLAIT_KEY"
    return None if answer.ok else f"{url}/v1/models answers with status {answer.status_code}: no server of OpenAI's kind"


def run_level(url: str, user: type[StreamingUser], num_users: int, seconds: float) -> Level:
    """Keep ``num_users`` asking for ``seconds`` and return what they saw."""
    environment = Environment(user_classes=[user], host=url, stop_timeout=FINISH_S)
    collector = Collector()
    environment.events.request.add_listener(collector.take)
    runner = environment.create_local_runner()
    runner.start(num_users, spawn_rate=num_users)
    gevent.sleep(WARM_SHARE * seconds)
    collector.is_open = True
    gevent.sleep((1 - WARM_SHARE) * seconds)
    collector.is_open = False
    runner.quit()
    answers = sum(len(values) for (_, kind), values in collector.seconds.items() if kind == "whole answer")
    return Level(num_users, (1 - WARM_SHARE) * seconds, answers, collector.failures, collector.waits())


def main() -> int:
    """Run the ramp; exit with 1 when no level keeps the service level, or when no server is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--name", default="plait", help="what the server is called in the report")
    parser.add_argument("--scenario", choices=USERS, default="mixed")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each level")
    parser.add_argument("--steps", type=int, default=Effort().num_steps, help="of each picture")
    parser.add_argument("--first-words-s", type=float, default=1.0)
    parser.add_argument("--between-words-s", type=float, default=0.2)
    parser.add_argument("--first-picture-s", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("loadtests/results/load/ramp"))
    options = parser.parse_args()
    if reason := why_nobody_can_ask(options.url):
        print(reason, file=sys.stderr)
        return 1
    user = USERS[options.scenario]
    user.effort = Effort(num_steps=options.steps)
    where, levels = machine(), []
    for num_users in options.users:
        levels.append(run_level(options.url, user, num_users, options.seconds))
        level = levels[-1]
        print(
            f"{num_users:4} users: {level.answers_per_s:6.2f} answers/s, {level.failures} failed, "
            f"p95 first words {level.worst('first words'):.2f} s, first picture {level.worst('first picture'):.2f} s",
            flush=True,
        )
    promise = ServiceLevel(options.first_words_s, options.between_words_s, options.first_picture_s)
    ramp = Ramp(options.name, options.scenario, where, promise, levels)
    ramp.save(options.out.with_suffix(".json"))
    write_report([ramp], options.out)
    capacity = ramp.capacity
    print(
        f"knee: {ramp.knee.users} users; capacity at the service level: "
        + ("none" if capacity is None else f"{capacity.answers_per_s:.2f} answers/s with {capacity.users} users")
    )
    return 0 if capacity else 1


if __name__ == "__main__":
    sys.exit(main())
