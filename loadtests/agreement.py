"""Do the server's own first-token and inter-token times agree with what another load client measured?

    python -m loadtests.agreement --metrics http://127.0.0.1:8000/metrics --client aiperf --result artifacts/profile_export_aiperf.json \\
        -- aiperf profile ... --artifact-dir artifacts

Runs the client's command, reads the server's histograms before and after, and compares means: a histogram's sum and count are exact,
its quantiles are not. The server must have had no other traffic. Exits with 1 beyond ``--within``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from loadtests.load.machine import machine

FIRST_TOKEN = "plait_time_to_first_token_seconds"
INTER_TOKEN = "plait_inter_token_seconds"
ALLOWED = 0.05


@dataclass(frozen=True, slots=True)
class Totals:
    """Sum in seconds and count of both histograms."""

    first_token_s: float
    num_first_tokens: float
    inter_token_s: float
    num_inter_tokens: float

    @classmethod
    def read(cls, url: str) -> Totals:
        """Read a server's metrics."""
        with urllib.request.urlopen(url, timeout=10) as answer:
            return cls.parse(answer.read().decode())

    @classmethod
    def parse(cls, exposition: str) -> Totals:
        """Read an exposition."""
        values = {sample.name: sample.value for family in text_string_to_metric_families(exposition) for sample in family.samples}
        first = values[f"{FIRST_TOKEN}_sum"], values[f"{FIRST_TOKEN}_count"]
        inter = values[f"{INTER_TOKEN}_sum"], values[f"{INTER_TOKEN}_count"]
        return cls(*first, *inter)

    def means_ms_since(self, before: Totals) -> tuple[float, float]:
        """Return the mean first-token and inter-token time in milliseconds of what came after ``before``."""
        first = (self.first_token_s - before.first_token_s) / (self.num_first_tokens - before.num_first_tokens)
        inter = (self.inter_token_s - before.inter_token_s) / (self.num_inter_tokens - before.num_inter_tokens)
        return 1000 * first, 1000 * inter


@dataclass(frozen=True, slots=True)
class Compared:
    """One mean as the server and as the client measured it."""

    name: str
    server_ms: float
    client_ms: float

    @property
    def difference(self) -> float:
        return self.server_ms / self.client_ms - 1


def client_means_ms(client: str, result: Path) -> tuple[float, float]:
    """Return a client's mean first-token and inter-token time in milliseconds, from the file it wrote."""
    read = json.loads(result.read_text(encoding="utf-8"))
    if client == "aiperf":
        return float(read["time_to_first_token"]["avg"]), float(read["inter_token_latency"]["avg"])
    metrics = read["benchmarks"][0]["metrics"]
    first, inter = (metrics[name]["successful"]["mean"] for name in ("time_to_first_token_ms", "inter_token_latency_ms"))
    return float(first), float(inter)


def main() -> int:
    """Run the client and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--metrics", default="http://127.0.0.1:8000/metrics")
    parser.add_argument("--client", choices=["aiperf", "guidellm"], required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--within", type=float, default=ALLOWED)
    parser.add_argument("--load", default="", help="what the client asks for, in words for the record")
    parser.add_argument("--out", type=Path, help="write the comparison there as JSON")
    parser.add_argument("command", nargs="+", help="the client's command, after --")
    options = parser.parse_args()
    before = Totals.read(options.metrics)
    subprocess.run(options.command, check=True)
    server = Totals.read(options.metrics).means_ms_since(before)
    pairs = zip(("first token", "between tokens"), server, client_means_ms(options.client, options.result), strict=True)
    compared = [Compared(name, ours, theirs) for name, ours, theirs in pairs]
    for one in compared:
        print(f"{one.name}: server {one.server_ms:.2f} ms, {options.client} {one.client_ms:.2f} ms, {100 * one.difference:+.1f} %")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        stored = {"client": options.client, "load": options.load, "machine": machine(), "means": [asdict(one) for one in compared]}
        options.out.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return 0 if all(abs(one.difference) <= options.within for one in compared) else 1


if __name__ == "__main__":
    sys.exit(main())
