"""llm-comply holds our answers against OpenAI's own description of them: basic, system, turns, tools, streams, pictures, errors."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.server.running_front import RunningFront


def test_every_chat_case_passes_without_a_warning(front: RunningFront) -> None:
    """Nine cases; one is for models that are called as OpenAI calls its reasoning models."""
    address = ["-u", f"{front.url}/v1", "-k", "none", "-m", "tiny_a"]
    command = [sys.executable, "-m", "llm_comply.cli", *address, "--format", "openai-chat", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    report = json.loads(run.stdout)
    assert report["summary"] == {"total": 9, "passed": 8, "failed": 0, "skipped": 1}, run.stdout
    assert [case["id"] for case in report["results"] if case["status"] == "skipped"] == ["chat-reasoning-summary"]
    assert not any(case.get("warnings") for case in report["results"]), run.stdout


def test_every_responses_case_passes(front: RunningFront) -> None:
    """Thirteen cases; one is for models that are called as OpenAI calls its reasoning models."""
    address = ["-u", f"{front.url}/v1", "-k", "none", "-m", "tiny_a"]
    command = [sys.executable, "-m", "llm_comply.cli", *address, "--format", "open-responses", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    report = json.loads(run.stdout)
    assert report["summary"] == {"total": 13, "passed": 12, "failed": 0, "skipped": 1}, run.stdout
