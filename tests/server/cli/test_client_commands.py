"""`plait chat`, `image`, `bench` and `models` as their user meets them: real commands against a real server."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from model.step_cache_rules import StepCache
from server.api.message_schemas import MAX_PARTS
from server.cli.bench import unheard
from server.cli.command import ExitStatus
from server.cli.commands import run
from server.cli.measurement import Plan, Run, measure
from server.cli.terminal_pictures import Protocol, drawn, protocol_of
from server.messages import ImageSegment, OutputMode, Request, TextClosed, TextSegment
from tests.server.api.chats import STORY, TOKENIZER, picture, story, tokens
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import Output, ScriptedEngine, finish, red_picture


@pytest.fixture
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(answer)) as front:
        yield front


def answer(request: Request) -> list[list[Output]]:
    """Draw where only pictures are asked for, else tell a story."""
    return [*picture(request, 0), [finish(request)]] if request.mode is OutputMode.IMAGE else story(request)


def a_picture(path: Path) -> Path:
    Image.new("RGB", (32, 16), (200, 10, 10)).save(path)
    return path


def test_chat_prints_words_and_saves_pictures_in_order(front: RunningFront, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chat", "a red circle", "--url", front.url, "--save", str(tmp_path)]) == ExitStatus.OK
    first, second = tmp_path / "plait-1.png", tmp_path / "plait-2.png"
    words = capsys.readouterr().out.splitlines()
    assert words == [STORY[0], f"[picture: {first}]", STORY[1], f"[picture: {second}]"]
    assert Image.open(first).getpixel((0, 0)) == (255, 0, 0)


def test_chat_sends_pictures_along(front: RunningFront, tmp_path: Path) -> None:
    path = a_picture(tmp_path / "given.png")
    assert run(["chat", "what is this", "--url", front.url, "--picture", str(path), "--save", str(tmp_path)]) == ExitStatus.OK
    assert isinstance(front.engine.requests[0].segments[0], ImageSegment)


def test_a_conversation_goes_on_from_what_was_said(front: RunningFront, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a story\nand then\n/new\nanother\n"))
    assert run(["chat", "--url", front.url, "--save", str(tmp_path)]) == ExitStatus.OK
    lengths = [len(request.segments) for request in front.engine.requests]
    assert lengths[1] > lengths[0] == lengths[2]


def test_what_a_program_types_is_answered_without_a_mark_in_between(
    front: RunningFront, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mark that asks for a line stood before every answer on standard output."""
    monkeypatch.setattr("sys.stdin", io.StringIO("/new\n/help\n"))
    assert run(["chat", "--url", front.url]) == ExitStatus.OK
    assert capsys.readouterr().out == ""


def test_an_address_without_a_scheme_is_taken_for_http(front: RunningFront, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--url", front.url.removeprefix("http://")]) == ExitStatus.OK
    assert "tiny_a" in capsys.readouterr().out


@pytest.mark.parametrize(("typed", "meant"), [("/nwe", "'/new'"), ("/picture", "'/picture FILE'"), ("/new one", "'/new'")])
def test_a_slip_in_a_command_is_no_message(
    front: RunningFront, typed: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{typed}\n"))
    assert run(["chat", "--url", front.url]) == ExitStatus.OK
    assert meant in capsys.readouterr().err and front.engine.requests == []


def test_an_answer_is_sent_back_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk of an answer used to be a part of its own: the model read a line break between all its words, and after an answer of
    more than 512 chunks the server refused every question that followed."""
    said = "a red circle " * 60
    engine = ScriptedEngine(lambda request: [*tokens(request, said), [TextClosed(request.request_id), finish(request)]])
    with running_front(engine) as front:
        monkeypatch.setattr("sys.stdin", io.StringIO("tell me\nand then\n"))
        assert run(["chat", "--words", "--url", front.url]) == ExitStatus.OK
        history = [segment for segment in engine.requests[1].segments if isinstance(segment, TextSegment)]
        assert len(TOKENIZER.encode(said)) > MAX_PARTS
        assert any(said.strip() in TOKENIZER.decode(segment.token_ids) for segment in history)


def test_image_saves_what_it_drew_and_prints_the_path(front: RunningFront, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["image", "a star", "--url", front.url, "--out", str(tmp_path)]) == ExitStatus.OK
    path = tmp_path / "plait-1.png"
    assert capsys.readouterr().out.strip() == str(path)
    assert Image.open(path).format == "PNG"


@pytest.mark.parametrize("command", [["image", "a star", "--out"], ["chat", "a star", "--save"]])
def test_a_directory_that_cannot_be_is_refused_before_anything_is_drawn(
    front: RunningFront, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The picture was drawn, could not be saved, and was lost in a traceback."""
    (tmp_path / "file").touch()
    assert run([*command, str(tmp_path / "file"), "--url", front.url]) == ExitStatus.BAD_INPUT
    assert str(tmp_path / "file") in capsys.readouterr().err
    assert front.engine.requests == []


@pytest.mark.parametrize("command", [["image", "a star", "--out"], ["chat", "a star", "--save"]])
def test_a_picture_that_cannot_be_saved_is_said(
    front: RunningFront, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "/proc/self", "--url", front.url]) == ExitStatus.FAILED
    assert "/proc/self/plait-1.png" in capsys.readouterr().err


def test_image_can_leave_steps_to_be_foreseen(front: RunningFront, tmp_path: Path) -> None:
    assert run(["image", "a star", "--step-cache", "3", "--url", front.url, "--out", str(tmp_path)]) == ExitStatus.OK
    assert front.engine.requests[0].image.step_cache == StepCache(interval=3, order=1, num_first=5)


@pytest.mark.parametrize("how", [[], ["--whole"]])
def test_image_edits_a_picture(front: RunningFront, tmp_path: Path, how: list[str]) -> None:
    given = a_picture(tmp_path / "given.png")
    assert run(["image", "make it blue", "--edit", str(given), "--url", front.url, "--out", str(tmp_path), *how]) == ExitStatus.OK
    assert any(isinstance(segment, ImageSegment) for segment in front.engine.requests[0].segments)
    assert (tmp_path / "plait-1.png").is_file()


def test_bench_measures_words_and_pictures(front: RunningFront, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--url", front.url, "--requests", "6", "--concurrency", "3", "--json"]) == ExitStatus.OK
    report = json.loads(capsys.readouterr().out)
    assert (report["requests"], report["failed"]) == (6, 0)
    first = report["time_to_first_token_s"]
    assert 0 < first["p50"] <= first["p99"] < report["answer_s"]["p99"]
    assert report["time_to_first_picture_s"]["p50"] > first["p50"]
    assert report["tokens_per_s"] > 0


def test_drawing_a_picture_is_no_time_between_tokens(front: RunningFront) -> None:
    """It was counted as one, and the slowest times between tokens of a model that tells stories were those of its pictures."""

    async def told() -> Run:
        body = {"model": "tiny_a", "messages": [{"role": "user", "content": "a story"}], "stream": True}
        async with httpx.AsyncClient(base_url=front.url) as http:
            return await measure(http, lambda index: body, Plan(1, 1, None, 10.0), unheard)

    (sample,) = asyncio.run(told()).samples
    assert sample.num_pictures == 2 and sample.num_chunks > len(STORY)
    assert len(sample.gaps_s) == sample.num_chunks - len(STORY)


def test_bench_with_a_rate_and_a_table(front: RunningFront, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--url", front.url, "--requests", "3", "--rate", "50", "--warm-up", "0"]) == ExitStatus.OK
    table = capsys.readouterr().out
    assert "3 requests, 0 failed" in table and "time to first token" in table


def test_bench_counts_failures_by_cause(front: RunningFront, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--url", front.url, "--model", "none", "--requests", "2", "--warm-up", "0", "--json"]) == ExitStatus.FAILED
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] == 2 and "tiny_a" in next(iter(report["errors"]))


def test_models_says_what_is_served(front: RunningFront, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--url", front.url]) == ExitStatus.OK
    shown = capsys.readouterr().out
    assert shown.startswith("tiny_a\n") and "text, image" in shown


@pytest.mark.parametrize("command", [["chat", "hi"], ["image", "a star"], ["models"], ["bench"]])
def test_a_server_that_is_not_there_is_named(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--url", "http://127.0.0.1:9"]) == ExitStatus.FAILED
    assert "http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--url", "http://127.0.0.1:abc"], ["--key", "ключ", "--url", "http://127.0.0.1:9"], ["--key", "a\n", "--url", "http://x"]]
)
@pytest.mark.parametrize("command", [["chat", "hi"], ["image", "a star"], ["models"], ["bench"]])
def test_an_address_or_a_key_that_cannot_be_one_is_refused(
    command: list[str], wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each used to end the command with a traceback or a riddle."""
    assert run([*command, *wrong]) == ExitStatus.BAD_INPUT
    said = capsys.readouterr().err
    assert ("--url" in said) is not ("--key" in said)


@pytest.mark.parametrize("wrong", ["--requests=0", "--concurrency=0", "--warm-up=-1", "--rate=nan", "--rate=inf", "--timeout=0"])
def test_bench_refuses_what_it_cannot_measure(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--url", "http://127.0.0.1:9", wrong]) == ExitStatus.BAD_INPUT
    assert wrong.partition("=")[0] in capsys.readouterr().err


def test_what_the_server_refuses_is_said_in_its_words(front: RunningFront, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chat", "hi", "--url", front.url, "--size", "17x17"]) == ExitStatus.FAILED
    assert "size" in capsys.readouterr().err


def test_a_file_that_is_no_picture_is_refused(front: RunningFront, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chat", "hi", "--url", front.url, "--picture", str(tmp_path / "notes.txt")]) == ExitStatus.BAD_INPUT
    assert "notes.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, Protocol.KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, Protocol.KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, Protocol.ITERM),
        ({"TERM": "foot"}, Protocol.SIXEL),
        ({"TERM": "xterm-256color"}, Protocol.NONE),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, Protocol.NONE),
    ],
)
def test_a_terminal_is_known_by_what_it_says_of_itself(environment: dict[str, str], protocol: Protocol) -> None:
    assert protocol_of(environment, is_terminal=True) is protocol
    assert protocol_of(environment, is_terminal=False) is Protocol.NONE


def test_kitty_gets_the_picture_in_pieces_that_it_takes() -> None:
    sequences = list(drawn(encoded_red(), Protocol.KITTY))
    bodies = [sequence.removeprefix("\x1b_G").removesuffix("\x1b\\").partition(";") for sequence in sequences]
    assert [control.endswith(f"m={int(place + 1 < len(bodies))}") for place, (control, _, _) in enumerate(bodies)] == [True] * len(bodies)
    assert all(len(data) <= 4096 for _, _, data in bodies)
    image = Image.open(io.BytesIO(base64.b64decode("".join(data for _, _, data in bodies))))
    assert image.getpixel((0, 0)) == (255, 0, 0)


def test_sixels_say_every_pixel_once() -> None:
    """Each column of each band has its six pixels in exactly one colour: the lines of a band add up to full sixels."""
    sixel = "".join(drawn(encoded_red(), Protocol.SIXEL))
    bands = sixel.removesuffix("\x1b\\").split("-")[:-1]
    assert len(bands) == -(-128 // 6)
    for band, rows in zip(bands, [6] * (128 // 6) + [128 % 6], strict=True):
        totals = [0] * 256
        for line in band[band.index("#0") if band.startswith("\x1bP") else 0 :].split("$"):
            for column, bits in enumerate(columns_of(line)):
                totals[column] += bits
        assert totals == [(1 << rows) - 1] * 256


def columns_of(line: str) -> list[int]:
    """Return the bits of each column of one colour's line."""
    columns: list[int] = []
    count = ""
    body = line[len(line) - len(line.lstrip("#0123456789;")) :]
    position = 0
    while position < len(body):
        if body[position] == "!":
            end = position + 1
            while body[end].isdigit():
                end += 1
            count, position = body[position + 1 : end], end
        columns += [ord(body[position]) - 63] * int(count or 1)
        count, position = "", position + 1
    return columns


def encoded_red() -> bytes:
    made = red_picture()
    file = io.BytesIO()
    Image.frombytes("RGB", (made.width, made.height), made.rgb).save(file, "PNG")
    return file.getvalue()
