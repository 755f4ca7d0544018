"""The command line as its user meets it: real processes, the real engine."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from loadtests.fleet.processes import free_port
from server.access.keys import KeyRing
from server.cli.command import ExitStatus
from server.cli.commands import run
from server.serving.engine_launch import command_line
from tests.model.checkpoints import change_tensors
from tests.server.running_front import GOLDEN

DEADLINE_S = 120.0
NOT_WRITABLE = Path("/proc/nobody-makes-a-directory-here")
"""Not even root does."""


@contextmanager
def serving(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``plait serve`` and make sure that it ends."""
    command = command_line(["serve", "--port", "0", "--num-threads", "1", "--num-pages", "64", *arguments])
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Return the first line of standard error that matches; fail when the process ends without one."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if re.search(pattern, line):
            return line
    raise AssertionError(f"no line matches {pattern!r} in {seen}")


def children_of(process_id: int) -> list[int]:
    """Return the processes whose parent is ``process_id``."""
    listed = subprocess.run(["ps", "-o", "pid=,ppid=", "-A"], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in (line.split() for line in listed.splitlines()) if int(parent) == process_id]


def is_running(process_id: int) -> bool:
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(process_id)], capture_output=True, text=True, check=False).stdout
    return bool(listed.strip()) and not listed.startswith("Z")


def assert_ends(process_id: int) -> None:
    """Assert that a process ends by itself."""
    deadline = time.monotonic() + DEADLINE_S
    while is_running(process_id):
        assert time.monotonic() < deadline, "the engine outlived its front"
        time.sleep(0.05)


def test_serve_prints_a_command_that_works_and_stops_cleanly_with_its_engine() -> None:
    with serving("--model", str(GOLDEN)) as process:
        words = shlex.split(lines_until(process, r"try: +curl").partition("try:")[2])
        url = next(word for word in words if word.startswith("http"))
        body = {**json.loads(words[words.index("-d") + 1]), "max_tokens": 8, "image": {"size": "32x32", "num_inference_steps": 3}}
        answer = httpx.post(url, json=body, timeout=DEADLINE_S)
        assert answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")
        assert answer.text.count("data:image/png;base64,") == 1
        (engine,) = children_of(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
        assert_ends(engine)


def test_a_server_that_lets_an_answer_finish_says_so_to_whoever_scrapes_it() -> None:
    """The gauge was named, drawn and alerted on, and never set."""
    metrics_url = f"http://127.0.0.1:{free_port()}"
    long = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "modalities": ["image"], "model": GOLDEN.name}
    with serving("--model", str(GOLDEN), "--metrics-port", metrics_url.rpartition(":")[2]) as process:
        url = re.search(r"http://\S+", lines_until(process, "plait: serving"))
        assert url is not None and "plait_draining 0.0" in httpx.get(f"{metrics_url}/metrics").text
        body = {**long, "image": {"num_inference_steps": 1000, "progress": True}}
        with httpx.stream("POST", f"{url[0]}/v1/chat/completions", json=body, timeout=DEADLINE_S) as answer:
            next(line for line in answer.iter_lines() if "image_progress" in line)
            process.send_signal(signal.SIGTERM)
            while "plait_draining 0.0" in (scrape := httpx.get(f"{metrics_url}/metrics").text):
                assert process.poll() is None
        assert "plait_draining 1.0" in scrape


def test_the_engine_ends_when_its_front_is_killed() -> None:
    with serving("--model", str(GOLDEN)) as process:
        lines_until(process, "ready on cpu")
        (engine,) = children_of(process.pid)
        process.kill()
        assert_ends(engine)


def test_a_command_s_own_server_is_no_server_for_others(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is exported for another server, or as the key by which to ask one, once closed the command's own server to the command."""
    monkeypatch.setenv("PLAIT_NUM_PAGES", "64")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("PLAIT_API_KEY", "a key of 19 letters")
        monkeypatch.setenv("PLAIT_KEYS_FILE", "/no/such/keys.json")
        monkeypatch.setenv("PLAIT_HOST", "0.0.0.0")
        monkeypatch.setenv("PLAIT_METRICS_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("PLAIT_STORE", f"redis://127.0.0.1:{taken.getsockname()[1]}/0")
        assert run(["chat", "hi", "--model", str(GOLDEN), "--words", "--max-tokens", "4"]) == ExitStatus.OK
    assert capsys.readouterr().out.strip()


def test_weights_that_are_cut_short_are_refused_by_name_before_an_engine_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(GOLDEN, broken)
    weights = broken / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert run(["serve", "--model", str(broken), "--port", "0"]) == ExitStatus.BAD_INPUT
    assert f"{weights}: not a safetensors file or truncated" in capsys.readouterr().err


def test_weights_that_do_not_fit_end_the_server_with_the_file_s_name(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(GOLDEN, broken)
    change_tensors(broken / "ema.safetensors", lambda tensors: tensors.pop("language_model.lm_head.weight"))
    with serving("--model", str(broken)) as process:
        assert "ema.safetensors" in lines_until(process, "could not start")
        assert process.wait(DEADLINE_S) == ExitStatus.ENGINE_FAILED


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--num-pages", "1g"], r"1,073,741,824 pages .* --num-pages \d+ or less"),
        (["--device", "cuda:77"], ".*GPU.*; --device cpu"),
    ],
    ids=["more pages than there is memory", "a device that is not there"],
)
def test_what_this_machine_does_not_have_ends_the_server_with_one_line_that_helps(options: list[str], says: str) -> None:
    """The engine was started three times, each time with a traceback, and the server's last line did not say why."""
    with serving("--model", str(GOLDEN), *options) as process:
        said = process.communicate(timeout=DEADLINE_S)[1]
    assert process.returncode == ExitStatus.ENGINE_FAILED
    assert re.search(f"^plait: the engine could not start: {says}", said, re.MULTILINE)
    assert "Traceback" not in said and "starting another" not in said


def test_with_json_lines_everything_on_standard_error_is_one() -> None:
    """The web server's own lines, the progress of loading and the address came as text in between."""
    with serving("--model", str(GOLDEN), "--log-format", "json", "--cache-dir", str(NOT_WRITABLE)) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(json.loads(line))
            if "serving tiny_a at" in line:
                process.send_signal(signal.SIGTERM)
    assert {line["process"] for line in said} == {"front", "engine"}
    assert [line["level"] for line in said if "cache_dir" in line["message"]] == ["warning"]


@pytest.mark.parametrize("wrong", [["--port", "70000"], ["--model", "/no/such/model"]])
def test_with_json_lines_a_refusal_is_one_too(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--log-format", "json", *wrong]) == ExitStatus.BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "error"


def test_a_variable_that_is_no_setting_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt one was ignored in silence."""
    monkeypatch.setenv("PLAIT_NUMPAGES", "64")
    assert run(["serve", "--model", "/no/such/model"]) == ExitStatus.BAD_INPUT
    assert (
        "plait: the environment variable PLAIT_NUMPAGES is not a setting and has no effect; did you mean PLAIT_NUM_PAGES?"
        in capsys.readouterr().err
    )


def test_a_cache_that_cannot_be_written_is_named_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--model", "/no/such/model", "--cache-dir", str(NOT_WRITABLE)]) == ExitStatus.BAD_INPUT
    assert f"plait: cache_dir {NOT_WRITABLE} cannot be written" in capsys.readouterr().err


def test_a_directory_that_holds_no_model_is_refused_with_the_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--model", str(tmp_path)]) == ExitStatus.BAD_INPUT
    assert str(tmp_path / "llm_config.json") in capsys.readouterr().err


def test_what_a_command_s_own_server_refuses_is_bad_input_to_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chat", "hi", "--model", str(tmp_path)]) == ExitStatus.BAD_INPUT
    assert str(tmp_path / "llm_config.json") in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["serve", "--model", str(GOLDEN), "--port", port]) == ExitStatus.BAD_INPUT
    assert port in capsys.readouterr().err


@pytest.mark.parametrize("address", ["localhost:6379", "redis://:s3cret/x@127.0.0.1:6379"])
def test_a_store_s_address_that_is_none_is_refused_and_not_shown(address: str) -> None:
    """It ended the server with a traceback, in which a password that needs escaping stood."""
    with serving("--model", str(GOLDEN), "--store", address) as process:
        said = process.communicate(timeout=DEADLINE_S)[1]
    assert process.returncode == ExitStatus.BAD_INPUT
    assert "store" in said and "s3cret" not in said


def test_the_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["serve", "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "examples:" in text and "--model" in text and "PLAIT_" in text


@pytest.mark.parametrize(
    ("typed", "meant"), [(["srve"], "serve"), (["serve", "--num-page", "4"], "--num-pages"), (["serve", "--prot=1"], "--port")]
)
def test_a_typo_is_answered_with_what_was_meant(typed: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = run(typed)
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == ExitStatus.BAD_INPUT
    assert f"did you mean '{meant}'?" in capsys.readouterr().err


def test_help_imports_no_package_at_all() -> None:
    """So that it is there at once."""
    heavy = "{'pydantic', 'fastapi', 'numpy', 'torch'}"
    check = f"import sys; from server.cli.commands import run; run(['--help']); sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check], cwd=Path(__file__).parents[3], check=False).returncode == 0


def test_the_front_never_imports_torch() -> None:
    check = "import sys, server.__main__, server.cli.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=Path(__file__).parents[3], check=False).returncode == 0


def test_a_key_is_printed_once_and_its_entry_opens_the_door(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["key", "alice", "--weight", "2", "--requests-per-minute", "60"]) == ExitStatus.OK
    printed = capsys.readouterr()
    secret, entry = printed.out.strip(), printed.err.partition(": ")[2]
    assert secret not in printed.err
    (tmp_path / "keys.json").write_text(f'{{"keys": [{entry}]}}')
    tenant = KeyRing.from_file(tmp_path / "keys.json").tenant_of(secret)
    assert tenant is not None and (tenant.name, tenant.weight, tenant.quota.requests_per_minute) == ("alice", 2.0, 60)


@pytest.mark.parametrize("wrong", ["--weight=nan", "--weight=-1", "--weight=1e9", "--requests-per-minute=0", "--max-in-flight=-1"])
def test_a_key_that_no_server_would_take_is_not_made(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "alice", wrong]) == ExitStatus.BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == "" and wrong.partition("=")[0].removeprefix("--").replace("-", "_") in printed.err


def test_a_tenant_with_an_odd_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "a/b"]) == ExitStatus.BAD_INPUT
    assert "letters, digits" in capsys.readouterr().err
