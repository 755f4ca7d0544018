"""What busy neighbours on the same processors do to a server: answers one at a time, beside programs that compute without end.

A laptop's other windows, a container without processors of its own. With as many neighbours as cores, each at the server's priority, half
of the machine is left; what an answer takes beyond twice its time is what the server loses by itself.

    python -m loadtests.neighbours --neighbours 0 1 2 --threads 1 2
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import httpx

from loadtests.fleet.replica import served

ASKS = {
    "a picture": ("a red circle", ["image"]),
    "a story of three": ("Tell a story about a small red star.", ["text", "image"]),
    "words": ("what shapes are there?", ["text"]),
}
WARM_UP = 5
ANSWER_TIMEOUT_S = 120.0
MS = 1e3


@contextmanager
def neighbours(number: int) -> Iterator[None]:
    """Let so many programs compute until the block ends."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def answer_seconds(http: httpx.Client, text: str, modalities: list[str], seed: int) -> float:
    """Ask and return how long the whole answer took."""
    body = {"model": "storybook", "messages": [{"role": "user", "content": text}], "modalities": modalities, "seed": seed}
    started = time.perf_counter()
    http.post("/v1/chat/completions", json=body).raise_for_status()
    return time.perf_counter() - started


def measure(num_threads: int, num_neighbours: int, num_answers: int) -> list[str]:
    """Return a table row for each kind of ask."""
    rows = []
    with (
        served("--num-threads", str(num_threads)) as replica,
        httpx.Client(base_url=replica.url, timeout=ANSWER_TIMEOUT_S) as http,
        neighbours(num_neighbours),
    ):
        for name, (text, modalities) in ASKS.items():
            seconds = [answer_seconds(http, text, modalities, seed) for seed in range(WARM_UP + num_answers)][WARM_UP:]
            rows.append(f"| {num_threads} | {num_neighbours} | {name} | {median(seconds) * MS:.0f} ms | {max(seconds) * MS:.0f} ms |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="busy programs beside the server")
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count() or 1], metavar="N", help="the server's compute threads")
    parser.add_argument("--answers", type=int, default=20, metavar="N", help="answers of each kind that are timed")
    options = parser.parse_args()
    print("| threads | neighbours | answer | median | slowest |\n|---|---|---|---|---|")
    for num_threads in options.threads:
        for num_neighbours in options.neighbours:
            print(*measure(num_threads, num_neighbours, options.answers), sep="\n", flush=True)


if __name__ == "__main__":
    main()
