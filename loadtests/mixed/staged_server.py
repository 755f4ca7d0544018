"""Serves a model as the peers do (`loadtests.replays.staged`), behind Plait's own front, so that one ramp can ask both over HTTP alike.

    python -m loadtests.mixed.staged_server --port-file port &
    python -m loadtests.load.ramp --name staged --url http://127.0.0.1:$(cat port) --scenario mixed

For measuring only: an answer whose client has gone is finished all the same, and only the length of a text can be chosen, not its form.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from loadtests.comparison.engines import as_served, load_bench
from loadtests.front import run_front
from loadtests.replays.staged import Staged
from model.shipped import STORYBOOK
from server.api.http_server import run_in_event_loop
from server.engine.link import Link
from server.messages import Request, Shutdown
from server.serving.engine_link import SocketLink
from server.time_slices import take_long_slices, take_short_slices

IDLE_WAIT_S = 0.5


def main() -> None:
    """Serve until told to stop; with a socket be the process in which the two engines are."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.mixed.staged_server", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=STORYBOOK)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--num-pages", type=int, default=4000, help="of each engine")
    parser.add_argument("--pictures", type=int, default=1, help="equal pictures that the image engine draws at once")
    parser.add_argument("--port-file", type=Path, default=Path("port"), help="where the port is written once it is known")
    parser.add_argument("socket", nargs="?", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    take_short_slices()
    if options.socket is not None:
        run_engine(options.socket, options)
        return
    engine = [sys.executable, "-m", "loadtests.mixed.staged_server", *sys.argv[1:]]
    run_in_event_loop(run_front(options.model, options.port_file, engine))


def run_engine(socket: Path, options: argparse.Namespace) -> None:
    """Load the model and serve the front at the other end of the socket."""
    engine_options = replace(as_served(None), num_pages=options.num_pages, num_threads=options.num_threads)
    with tempfile.TemporaryDirectory() as scratch, SocketLink(socket) as link:
        take_long_slices()
        bench = load_bench(str(options.model), Path(scratch), engine_options, options.pictures)
        link.send_ready(bench.ready)
        answer(link, bench.staged)


def answer(link: Link, staged: Staged) -> None:
    """Take in requests and report steps until the front says that it is enough."""
    while True:
        for message in link.receive(0.0 if staged.has_work else IDLE_WAIT_S):
            match message:
                case Request():
                    staged.submit(message)
                case Shutdown():
                    return
                case _:
                    pass
        for report in staged.step() if staged.has_work else []:
            link.send(report)


if __name__ == "__main__":
    main()
