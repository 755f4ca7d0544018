"""The load clients of others: how each is told to ask the same, and where it writes what it measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from loadtests.agreement.server_times import Means


class Client(Enum):
    """A client whose times are compared."""

    AIPERF = "aiperf"
    GUIDELLM = "guidellm"


@dataclass(frozen=True, slots=True)
class Load:
    """What a client asks for: so many requests of one size, so many at a time."""

    num_requests: int
    at_a_time: int
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a client asks: a server, and the directory of the model it serves, for the tokenizer."""

    url: str
    model: Path


def command(client: Client, program: Path, load: Load, target: Target, directory: Path) -> list[str]:
    """Return the command that puts the load on the target and writes its result into ``directory``."""
    model, tokenizer = target.model.name, str(target.model.resolve())
    match client:
        case Client.AIPERF:
            options = f"""profile --model {model} --url {target.url} --endpoint-type chat --streaming --use-server-token-count
                --synthetic-input-tokens-mean {load.prompt_tokens} --output-tokens-mean {load.answer_tokens} --extra-inputs ignore_eos:true
                --request-count {load.num_requests} --concurrency {load.at_a_time} --ui none"""
            return [str(program), *options.split(), "--tokenizer", tokenizer, "--artifact-dir", str(directory)]
        case Client.GUIDELLM:
            options = f"""run --backend kind=openai_http,target={target.url},model={model}
                --profile kind=concurrent,streams={load.at_a_time}
                --data kind=synthetic_text,prompt_tokens={load.prompt_tokens},output_tokens={load.answer_tokens}
                --constraint kind=max_requests,count={load.num_requests} --disable-progress"""
            tokenizer_of = ["--tokenizer", f"kind=huggingface_auto,model={tokenizer}"]
            return [str(program), *options.split(), *tokenizer_of, "--output", f"kind=json,path={directory / 'guidellm.json'}"]


def measured(client: Client, directory: Path) -> Means:
    """Read what a client wrote into ``directory``."""
    match client:
        case Client.AIPERF:
            read = json.loads((directory / "profile_export_aiperf.json").read_text(encoding="utf-8"))
            return Means(float(read["time_to_first_token"]["avg"]), float(read["inter_token_latency"]["avg"]))
        case Client.GUIDELLM:
            metrics = json.loads((directory / "guidellm.json").read_text(encoding="utf-8"))["benchmarks"][0]["metrics"]
            first, inter = (metrics[name]["successful"]["mean"] for name in ("time_to_first_token_ms", "inter_token_latency_ms"))
            return Means(float(first), float(inter))
