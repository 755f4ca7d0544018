"""Settings: command line over environment over default, and nothing out of bounds."""

from __future__ import annotations

import argparse

import pytest

from server.settings import BadSettings, LogFormat, Settings, add_options, settings_from

FOREIGN_WORDS = ("Value error", "Input should", "should have", "after validation")
"""How pydantic speaks of a value."""


def parse(*arguments: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return settings_from(parser.parse_args(arguments))


def test_the_command_line_wins_over_the_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIT_PORT", "9001")
    monkeypatch.setenv("PLAIT_PAGE_SIZE", "32")
    settings = parse("--port", "9002")
    assert (settings.port, settings.page_size, settings.max_running) == (9002, 32, 128)


def test_the_server_listens_on_this_machine_alone_by_default() -> None:
    assert Settings().host == "127.0.0.1"


def test_a_choice_by_name_becomes_its_enum() -> None:
    assert parse("--log-format", "json").log_format is LogFormat.JSON


@pytest.mark.parametrize(("written", "meant"), [("64k", 65_536), ("64K", 65_536), ("0.5m", 524_288), ("1MiB", 1 << 20), ("70000", 70_000)])
def test_sizes_may_be_written_short(written: str, meant: int) -> None:
    assert parse("--max-batch-tokens", written).max_batch_tokens == meant


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], ["--port", "PLAIT_PORT", "65535"]),
        (["--port", "http"], ["--port"]),
        (["--max-batch-tokens", "64kg"], ["--max-batch-tokens"]),
        (["--max-batch-tokens", "64g"], ["--max-batch-tokens", "1048576"]),
        (["--dtype", "int4"], ["--dtype", "bfloat16"]),
        (["--device", "tpu"], ["--device"]),
        (["--keep-alive-s", "nan"], ["--keep-alive-s"]),
        (["--num-pages", "1", "--page-size", "16"], ["--num-pages", "64"]),
        (["--max-running", "600"], ["--max-running", "512"]),
        (["--api-key", "short"], ["--api-key", "at least 16 characters"]),
        (["--store", "foo://x"], ["--store", "redis://host:6379/0"]),
        (["--host", "0.0.0.0"], ["--host 0.0.0.0 is open to others", "--keys-file"]),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_name_and_the_bound(arguments: list[str], words: list[str]) -> None:
    with pytest.raises(BadSettings) as caught:
        parse(*arguments)
    assert all(word in str(caught.value) for word in words)
    assert not any(word in str(caught.value) for word in FOREIGN_WORDS)


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_prefix_cache_is_on_unless_it_is_switched_off() -> None:
    assert parse().prefix_cache
    assert not parse("--no-prefix-cache").prefix_cache
