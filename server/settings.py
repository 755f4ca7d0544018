"""Every choice of whoever runs the server, in one place: the command line, else ``PLAIT_…`` in the environment, else the default here.

Built once by the command that needs them; rooms are handed the few values they use. The only module that reads the environment.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.plain_words import in_plain_words


class LogFormat(Enum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


Seconds = Annotated[float, Field(gt=0, le=86_400)]

SIZE_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def read_size(value: object) -> object:
    """Return the number that ``64k``, ``1.5m`` or ``2g`` is short for; anything else as it is, for the field to judge."""
    if not isinstance(value, str):
        return value
    short = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmg])(?:i?b)?\s*", value.lower())
    return int(float(short[1]) * SIZE_UNITS[short[2]]) if short else value


Size = Annotated[int, BeforeValidator(read_size)]
"""A whole number that may be written short, with units of 1024."""


PREFIX = "PLAIT_"
"""What the name of every variable of the environment begins with."""


class Settings(BaseSettings):
    """What ``plait serve`` can be told."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", protected_namespaces=())

    model: Path | None = Field(default=None, description="BAGEL-layout model directory; default: storybook, which comes with Plait")
    model_name: str | None = Field(
        default=None, max_length=256, description="name that clients use; default: that of its repository or directory"
    )
    family: Literal["bagel", "interleaved"] | None = Field(default=None, description="model family, where the directory does not say")
    host: str = Field(default="127.0.0.1", description="address to listen on; beyond this machine only with keys, or --insecure")
    port: int = Field(default=8000, ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="port of /metrics; default: the main port if only this machine reaches it, else none",
    )
    metrics_host: str | None = Field(default=None, description="address of the metrics port; default: that of the main port")
    api_key: SecretStr | None = Field(default=None, min_length=16, description="one key that clients must send; better in the environment")
    keys_file: Path | None = Field(default=None, description="JSON file of keys, tenants and quotas; plait key NAME makes an entry for it")
    insecure: bool = Field(default=False, description="listen beyond this machine without keys")
    fetch_hosts: str = Field(
        default="",
        max_length=65_536,
        description="hosts to fetch pictures from, separated by commas; *.name is every host below it",
    )
    otlp_endpoint: str | None = Field(
        default=None, pattern=r"^https?://.+", description="collector (OTLP over HTTP) that traces go to; needs plait[telemetry]"
    )
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="cpu, cuda or auto")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="number format of weights, and of the cache unless kv_dtype says another"
    )
    quantization: Literal["none", "fp8"] = Field(
        default="none",
        description="fp8: the experts multiply 8-bit floats, in half the memory and less exactly; on a CPU only for trying it out",
    )
    kv_dtype: Literal["auto", "fp8"] = Field(
        default="auto", description="number format of the cache; fp8: one byte per number, less exact; on a CPU only for trying it out"
    )
    page_size: int = Field(default=16, ge=1, le=1024, description="cache rows in a page")
    num_pages: Size | None = Field(default=None, ge=1, le=1 << 30, description="pages in the cache; default: sized from free memory")
    max_batch_tokens: Size = Field(default=4096, ge=1, le=1 << 20, description="tokens one engine step aims not to exceed")
    max_running: int = Field(default=128, ge=1, le=65_536, description="requests that may hold cache pages at once")
    max_waiting: int = Field(
        default=512, ge=1, le=65_536, description="requests that may wait for their turn; more are told to come back later"
    )
    inter_token_target_ms: float | None = Field(
        default=None,
        gt=0,
        le=60_000,
        description="milliseconds between two tokens to stay below while pictures are drawn; default: 40, or six decode steps",
    )
    prefix_cache: bool = Field(default=True, description="compute every prompt anew, even what was computed before")
    num_threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads of the forward pass; default: PyTorch's choice")
    cache_dir: Path = Field(default=Path("~/.cache/plait"), description="where what is computed once for a model is kept")
    max_in_flight: int = Field(default=512, ge=1, le=65_536, description="requests taken in at once; more are told to come back later")
    max_body_bytes: Size = Field(default=32 << 20, ge=1024, le=1 << 30, description="largest request body")
    max_pictures: int = Field(default=16, ge=0, le=512, description="most pictures in one prompt")
    max_picture_pixels: Size = Field(default=36_000_000, ge=1, le=1 << 28, description="largest picture read, in pixels")
    keep_alive_s: Seconds = Field(default=15.0, description="seconds of silence after which a stream is pinged")
    longest_answer_s: Seconds = Field(default=3600.0, description="seconds from a request's arrival after which its answer is given up")
    stall_after_s: Seconds = Field(default=300.0, description="seconds without progress after which a busy engine counts as stalled")
    drain_s: Seconds = Field(default=30.0, description="seconds that running answers have to finish when the server is told to stop")
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#]+$",
        description="how clients reach this server, for links; default: as the request came",
    )
    stream_ttl_s: Seconds = Field(default=600.0, description="seconds for which a finished answer can be read again")
    store: SecretStr | None = Field(
        default=None,
        max_length=2048,
        description="redis://, rediss:// or unix:// URL of the store that replicas share; without one answers are kept in this process",
    )
    fault_dir: Path | None = Field(default=None, description="for tests only: a directory through which the engine is broken on purpose")
    store_prefix: str = Field(default="plait:", max_length=64, description="what every key in the shared store begins with")
    lease_s: Seconds = Field(default=3.0, description="seconds without a heartbeat after which others take over a server's work")
    resume_grace_s: Seconds = Field(default=30.0, description="seconds for which a resumable answer goes on without a reader")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least severe log lines that are written")
    log_format: LogFormat = Field(default=LogFormat.TEXT, description="how log lines are written")

    @field_validator("store")
    @classmethod
    def _is_a_store(cls, store: SecretStr | None) -> SecretStr | None:
        if store is not None and not store.get_secret_value().startswith(STORE_SCHEMES):
            raise ValueError("expected redis://host:6379/0, rediss://host:6379/0 or unix://path")
        return store

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.num_pages is not None and self.num_pages * self.page_size < MIN_CACHE_ROWS:
            raise ValueError(f"--num-pages x --page-size must be at least {MIN_CACHE_ROWS} cache rows, or no prompt fits")
        if self.api_key is not None and self.keys_file is not None:
            raise ValueError("--api-key and --keys-file cannot be used together; put the key into the file")
        if not (self.has_keys or self.insecure or self.host in LOOPBACK_HOSTS):
            raise ValueError(
                f"--host {self.host} is open to others: set --api-key (better PLAIT_API_KEY) or --keys-file, or say --insecure"
            )
        if self.max_running > self.max_in_flight:
            raise ValueError(f"--max-running {self.max_running} must not be more than --max-in-flight {self.max_in_flight}")
        return self

    @property
    def serves_metrics_publicly(self) -> bool:
        """Whether /metrics is on the main port: it names the traffic of everybody, so only when nobody else can reach it."""
        return self.metrics_port is None and self.host in LOOPBACK_HOSTS

    @property
    def has_keys(self) -> bool:
        """Whether clients need a key."""
        return self.api_key is not None or self.keys_file is not None

    @property
    def fetch_host_names(self) -> frozenset[str]:
        """The hosts of ``fetch_hosts``, in lower case."""
        return frozenset(host.strip().lower() for host in self.fetch_hosts.split(",") if host.strip())


MIN_CACHE_ROWS = 64
STORE_SCHEMES = ("redis://", "rediss://", "unix://")
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


THREAD_SPINS = "30000"
"""How often an idle thread of PyTorch's (GNU OpenMP), on which bfloat16 is computed, looks for work before it sleeps, about 0.1 ms.

By default it looks for several milliseconds, and where a processor is shared it does so in the place of the thread it waits for: on two
busy cores a product of 0.5 ms then takes 14 ms, with this 2 ms. With the cores to itself the engine is as fast as before.
"""


def engine_environment() -> dict[str, str]:
    """Return the environment of the engine process: this one's, and what OpenMP must know before it is loaded."""
    return {"GOMP_SPINCOUNT": THREAD_SPINS, **os.environ}


OF_A_SHARED_SERVER = frozenset({"host", "metrics_port", "metrics_host", "api_key", "keys_file", "insecure", "public_url", "store"})
"""Settings that say by whom a server is reached and with whom it shares its work."""


def private_environment() -> dict[str, str]:
    """Return the environment of a server that serves one command on this machine alone: this process's, without what only concerns a
    server for others. This process's may hold the settings of such a server, and the key with which this command would ask one."""
    left_out = {f"{PREFIX}{name.upper()}" for name in OF_A_SHARED_SERVER}
    return {name: value for name, value in os.environ.items() if name.upper() not in left_out}


def client_key() -> str | None:
    """Return the API key that commands send to servers when none is given."""
    return os.environ.get("PLAIT_API_KEY") or os.environ.get("OPENAI_API_KEY")


def unknown_variables() -> list[str]:
    """Return a sentence for each variable of the environment that begins as ours do and is none, with the name that was probably meant."""
    known = [name.upper() for name in Settings.model_fields]
    own = {name: name.upper().removeprefix(PREFIX) for name in os.environ if name.upper().startswith(PREFIX)}
    unknown = sorted(name for name, setting in own.items() if setting not in known)
    return [f"the environment variable {name} is not a setting and has no effect{_nearest(own[name], known)}" for name in unknown]


def _nearest(setting: str, known: list[str]) -> str:
    found = difflib.get_close_matches(setting, known, n=1)
    return f"; did you mean {PREFIX}{found[0]}?" if found else ""


def wanted_log_format(options: argparse.Namespace) -> LogFormat:
    """Return how log lines are written, before it is known whether the settings can be used: what is wrong with them is said so too."""
    given = options.log_format or os.environ.get("PLAIT_LOG_FORMAT")
    return LogFormat.JSON if given == LogFormat.JSON.value else LogFormat.TEXT


def terminal_environment() -> dict[str, str]:
    """Return what the terminal says of itself, by which the command line knows whether it can draw."""
    names = ("TERM", "TERM_PROGRAM", "LC_TERMINAL", "KITTY_WINDOW_ID", "TMUX")
    return {name: os.environ[name] for name in names if name in os.environ}


class BadSettings(Exception):
    """A setting that is out of its bound; the message names it."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` one option for each setting."""
    for name, field in Settings.model_fields.items():
        if field.annotation is bool:
            parser.add_argument(option_of(name), dest=name, action="store_const", const=not field.default, help=field.description)
            continue
        default = default_of(name)
        shown = f" (default: {default})" if default else ""
        parser.add_argument(
            option_of(name),
            dest=name,
            metavar=value_word(name),
            help=f"{field.description}{shown}",
        )


def option_of(name: str) -> str:
    """Return the option that gives a setting; for one that is on by default, the one that switches it off."""
    return f"--{'no-' if Settings.model_fields[name].default is True else ''}{name.replace('_', '-')}"


def default_of(name: str) -> str:
    """Return what a setting is when nothing is said of it, as one would write it; nothing where the description says it."""
    default = Settings.model_fields[name].default
    shown = default.value if isinstance(default, Enum) else default
    return "" if shown is None else str(shown)


def settings_from(options: argparse.Namespace) -> Settings:
    """Build the settings from parsed options and the environment.

    Raises:
        BadSettings: one of them is out of its bound.
    """
    given = {name: value for name, value in vars(options).items() if name in Settings.model_fields and value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = [
            f"{_option(problem['loc'])}{in_plain_words(problem)}" for problem in error.errors(include_url=False, include_input=False)
        ]
        raise BadSettings("; ".join(problems)) from error


def _option(location: tuple[int | str, ...]) -> str:
    return f"--{str(location[0]).replace('_', '-')} (or {PREFIX}{str(location[0]).upper()}): " if location else ""


WORDS = {
    "_ms": "MILLISECONDS",
    "_s": "SECONDS",
    "_bytes": "BYTES",
    "_pixels": "PIXELS",
    "_hosts": "NAMES",
    "host": "ADDRESS",
    "device": "DEVICE",
    "store": "URL",
    "_url": "URL",
    "_endpoint": "URL",
}
"""What a value is, by the end of the setting's name."""


def value_word(name: str) -> str:
    """Return what stands for a setting's value in the help: its unit, its choices, or its kind."""
    by_name = next((word for end, word in WORDS.items() if name.endswith(end)), None)
    if by_name is not None:
        return by_name
    choices = [choice for choice in _members(Settings.model_fields[name].annotation) if choice is not type(None)]
    names = {Path: "PATH", SecretStr: "KEY", str: "NAME", int: "N"}
    return "|".join(names[choice] if isinstance(choice, type) and choice in names else str(choice) for choice in choices)


def _members(annotation: object) -> list[object]:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [member.value for member in annotation]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) in (typing.Union, typing.Literal):
        return [member for part in typing.get_args(annotation) for member in (_members(part) if not isinstance(part, str) else [part])]
    if typing.get_origin(annotation) is Annotated:
        return _members(typing.get_args(annotation)[0])
    return [annotation]
