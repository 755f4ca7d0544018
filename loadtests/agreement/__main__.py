"""Do the server's own first-token and inter-token times agree with what load clients of others measured?

    python -m loadtests.agreement --aiperf /opt/aiperf/bin/aiperf --guidellm /opt/guidellm/bin/guidellm --wire --out DIRECTORY

Every row is one client asking one server that was started for it: a server that had the same prompts before answers from its cache. With
``--wire`` (as root, with tcpdump) the packets are looked at too, which tells the client's own share of a difference from the server's.
Writes a table and a JSON file; exits with 1 if a difference between server and client is larger than ``--within``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.agreement import wire
from loadtests.agreement.clients import Client, Load, Target, command, measured
from loadtests.agreement.server_times import Means, Totals
from loadtests.fleet.replica import served
from loadtests.load.machine import machine
from model.shipped import STORYBOOK

ALLOWED = 0.05
CLIENT_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Row:
    """One load as the server, the wire where it was looked at, and the client measured it."""

    client: str
    load: Load
    server: Means
    theirs: Means
    wire_first_token_ms: float | None

    @property
    def differences(self) -> tuple[float, float]:
        """First token and between tokens, the server's against the client's."""
        first = self.server.first_token_ms / self.theirs.first_token_ms
        return first - 1, self.server.inter_token_ms / self.theirs.inter_token_ms - 1

    def cells(self) -> list[str]:
        first, inter = self.differences
        on_wire = "" if self.wire_first_token_ms is None else f"{self.wire_first_token_ms:.2f} ms"
        return [
            self.client,
            f"{self.load.at_a_time}",
            f"{self.load.prompt_tokens}",
            f"{self.server.first_token_ms:.2f} ms",
            on_wire,
            f"{self.theirs.first_token_ms:.2f} ms",
            f"{100 * first:+.1f} %",
            f"{self.server.inter_token_ms:.2f} ms",
            f"{self.theirs.inter_token_ms:.2f} ms",
            f"{100 * inter:+.1f} %",
        ]


FIRST, INTER = ["first token: server", "wire", "client", "difference"], ["between tokens: server", "client", "difference"]
HEADINGS = ["client", "at a time", "tokens in", *FIRST, *INTER]


@dataclass(frozen=True, slots=True)
class Bench:
    """What is the same for every row: the model, the server's options, whether packets are looked at, and where results go."""

    model: Path
    server_options: list[str]
    looks_at_wire: bool
    out: Path

    def run(self, client: Client, program: Path, load: Load) -> Row:
        """Let one client ask a server of its own."""
        directory = self.out / f"{client.value}-{load.prompt_tokens}-{load.at_a_time}"
        directory.mkdir(parents=True, exist_ok=True)
        with served("--model", str(self.model), *self.server_options) as replica:
            before = Totals.read(replica.metrics_url)
            asking = command(client, program, load, Target(replica.url, self.model), directory)
            on_wire = self._ask(asking, replica.port, directory)
            server = Totals.read(replica.metrics_url).means_since(before)
        return Row(client.value, load, server, measured(client, directory), on_wire)

    def _ask(self, asking: list[str], port: int, directory: Path) -> float | None:
        capture = directory / "wire.pcap"
        with (directory / "client.log").open("wb") as log, wire.captured(port, capture) if self.looks_at_wire else nullcontext():
            subprocess.run(asking, check=True, stdout=log, stderr=log, timeout=CLIENT_TIMEOUT_S)
        return wire.first_words_ms(capture.read_bytes(), port) if self.looks_at_wire else None


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [HEADINGS, ["---", "--:", *["--:"] * (len(HEADINGS) - 2)], *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parsed() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--aiperf", type=Path, help="the program aiperf; without it that client is left out")
    parser.add_argument("--guidellm", type=Path, help="the program guidellm; without it that client is left out")
    parser.add_argument("--model", type=Path, default=STORYBOOK)
    parser.add_argument("--at-a-time", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt-tokens", type=int, nargs="+", default=[1500])
    parser.add_argument("--answer-tokens", type=int, default=100)
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--within", type=float, default=ALLOWED)
    parser.add_argument("--wire", action="store_true", help="look at the packets as well")
    parser.add_argument("--out", type=Path, default=Path("agreement"), help="a directory")
    parser.add_argument("server", nargs="*", help="options of plait serve, after --")
    return parser.parse_args()


def main() -> int:
    """Run every client at every load."""
    options = parsed()
    programs = {Client.AIPERF: options.aiperf, Client.GUIDELLM: options.guidellm}
    sizes = itertools.product(options.prompt_tokens, options.at_a_time)
    loads = [Load(options.requests, at_a_time, prompt_tokens, options.answer_tokens) for prompt_tokens, at_a_time in sizes]
    bench = Bench(options.model, options.server, options.wire, options.out)
    where = machine()
    rows = [bench.run(client, program, load) for client, program in programs.items() if program for load in loads]
    print(table(rows))
    stored = {"machine": where, "rows": [asdict(row) for row in rows]}
    (options.out / "agreement.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return 0 if all(abs(difference) <= options.within for row in rows for difference in row.differences) else 1


if __name__ == "__main__":
    sys.exit(main())
