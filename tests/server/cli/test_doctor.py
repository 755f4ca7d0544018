"""`plait doctor` on set-ups that are really broken: real directories, real ports, a real Redis. It names the cause of each."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from server.cli.command import ExitStatus
from server.cli.commands import run
from server.cli.doctor.finding import Verdict
from server.cli.doctor.machine import Accelerator, check_dtype, check_fp8
from tests.redis_server import redis_on_socket
from tests.server.running_front import GOLDEN

T4 = Accelerator("Tesla T4", True, 16 << 30, 15 << 30, computes_bfloat16=False, capability=(7, 5))


def examine(capsys: pytest.CaptureFixture[str], *arguments: str, model: Path = GOLDEN) -> tuple[int, dict[str, dict[str, str]]]:
    """Run the doctor; return its status and its findings by what was looked at, the worst where there are several."""
    port = [] if "--port" in arguments else ["--port", "0"]
    status = run(["doctor", "--model", str(model), *port, *arguments, "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    order = [verdict.value for verdict in Verdict]
    return status, {entry["check"]: entry for entry in sorted(findings, key=lambda entry: order.index(entry["verdict"]))}


def assert_fault(found: tuple[int, dict[str, dict[str, str]]], check: str, *words: str) -> None:
    """Assert that one thing alone is at fault, that the cause is named, and that there is something to do about it."""
    status, findings = found
    faults = [entry for entry in findings.values() if entry["verdict"] == Verdict.FAULT.value]
    assert status == ExitStatus.FAILED
    assert [entry["check"] for entry in faults] == [check]
    assert all(word in faults[0]["says"] for word in words), faults[0]
    assert faults[0]["remedy"]


def test_a_sound_set_up_has_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    status, findings = examine(capsys)
    assert status == ExitStatus.OK
    assert {"machine", "device", "dtype", "attention", "model", "memory", "plan", "port"} <= findings.keys()


def test_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert_fault(examine(capsys, model=tmp_path / "nothing"), "model", "no directory", str(tmp_path / "nothing"))


def test_a_directory_without_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert_fault(examine(capsys, model=tmp_path), "model", "llm_config.json")


def test_truncated_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(GOLDEN, broken)
    weights = broken / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert_fault(examine(capsys, model=broken), "model", "ema.safetensors", "truncated")


def test_the_wrong_dtype_for_the_card() -> None:
    found = check_dtype("bfloat16", T4)
    assert found.verdict is Verdict.FAULT
    assert "Tesla T4" in found.says and "7.5" in found.says and "float32" in found.remedy
    assert check_dtype("float32", T4).verdict is Verdict.OK


def test_8_bit_floats_on_a_card_without_them() -> None:
    (found,) = check_fp8(["--kv-dtype"], T4)
    assert found.verdict is Verdict.FAULT
    assert "--kv-dtype fp8" in found.says and "8.9" in found.says and "--kv-dtype" in found.remedy
    assert list(check_fp8(["--quantization"], replace(T4, capability=(8, 9)))) == []
    assert list(check_fp8(["--quantization"], replace(T4, is_gpu=False, capability=None))) == []


def test_a_gpu_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert_fault(examine(capsys, "--device", "cuda:7"), "device", "GPU")


def test_too_little_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert_fault(examine(capsys, "--num-pages", "512m"), "memory", "too little memory")


def test_a_misspelt_variable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIT_STOER", "redis://127.0.0.1:9/0")
    status, findings = examine(capsys)
    assert status == ExitStatus.OK and findings["environment"]["verdict"] == Verdict.WARNING.value
    assert "PLAIT_STOER" in findings["environment"]["says"] and "PLAIT_STORE?" in findings["environment"]["says"]


def test_a_cache_directory_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    status, findings = examine(capsys, "--cache-dir", "/proc/nobody-makes-a-directory-here")
    assert status == ExitStatus.OK and findings["cache"]["verdict"] == Verdict.WARNING.value
    assert "/proc/nobody" in findings["cache"]["says"]


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_fault(examine(capsys, "--port", port), "port", port, "in use")


def test_a_metrics_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_fault(examine(capsys, "--metrics-port", port), "metrics-port", port, "in use")


def test_an_address_of_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """It advised another port, which does not help."""
    found = examine(capsys, "--host", "192.0.2.1", "--insecure")
    assert_fault(found, "port", "192.0.2.1")
    assert "--port" not in found[1]["port"]["remedy"]


def test_a_key_file_that_no_server_would_take(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert_fault(examine(capsys, "--keys-file", str(tmp_path / "none.json")), "keys", "none.json", "No such file")


def test_a_store_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert_fault(examine(capsys, "--store", "redis://127.0.0.1:9/0"), "store", "unreachable")


def test_a_store_that_forgets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with redis_on_socket(tmp_path, "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru") as url:
        assert_fault(examine(capsys, "--store", url), "store policy", "allkeys-lru")


def test_a_store_that_keeps_is_fine_and_one_without_a_disk_is_warned_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with redis_on_socket(tmp_path) as url:
        status, findings = examine(capsys, "--store", url)
    assert status == ExitStatus.OK
    assert findings["store policy"]["verdict"] == Verdict.OK.value
    assert findings["store persistence"]["verdict"] == Verdict.WARNING.value


def test_a_missing_optional_extra() -> None:
    """In an interpreter that really has no Triton, for a machine with a GPU."""
    program = """
import sys

class TakenAway:
    def find_spec(self, name, path=None, target=None):
        if name == "triton":
            raise ModuleNotFoundError(name=name)

sys.meta_path.insert(0, TakenAway())
from server.cli.doctor.machine import Accelerator, check_extra
found = check_extra(Accelerator("card", True, 1, 1, True, (9, 0)))
print(found.verdict.value, found.says, found.remedy)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stdout.startswith("fault") and "plait[cuda]" in done.stdout


def test_the_report_for_people_says_what_to_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["doctor", "--model", str(tmp_path), "--port", "0"]) == ExitStatus.FAILED
    report = capsys.readouterr().out
    assert "✗ model" in report and "->" in report and "1 fault" in report
