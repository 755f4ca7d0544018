"""The engine's client against a scripted engine over a real socket: requests out, outputs back, and what happens when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.errors import EngineUnavailable
from server.messages import (
    FinishedOutput,
    FinishReason,
    ImageParams,
    OutputMode,
    Request,
    SamplingParams,
    StepReport,
    TextSegment,
    TokenOutput,
)
from server.serving.engine_client import EngineClient, EnginePhase, RestartPolicy
from server.serving.engine_launch import command_line
from tests.server.scripted_engine import READY, Output, ScriptedEngine, finish

PROMPT_RETRY = RestartPolicy(first_delay_s=0.01, max_delay_s=0.02, max_failed_starts=3)


def request(request_id: str) -> Request:
    return Request(request_id, [TextSegment([1])], OutputMode.TEXT, SamplingParams(), ImageParams(16, 16))


def two_tokens(asked: Request) -> list[list[Output]]:
    return [[TokenOutput(asked.request_id, 5)], [TokenOutput(asked.request_id, 6), finish(asked)]]


def one_token_and_wait(asked: Request) -> list[list[Output]]:
    return [[TokenOutput(asked.request_id, 5)], [], [finish(asked)]]


@dataclass
class Bench:
    engine: ScriptedEngine
    client: EngineClient
    task: asyncio.Task[None]
    reports: list[StepReport]
    directory: Path

    async def phase(self, phase: EnginePhase) -> None:
        """Wait for a phase."""
        async with asyncio.timeout(10):
            while self.client.status.phase is not phase:
                await self.client.status_change()


@contextlib.asynccontextmanager
async def bench(engine: ScriptedEngine, directory: Path) -> AsyncIterator[Bench]:
    reports: list[StepReport] = []
    client = EngineClient(engine.launch, directory, reports.append, PROMPT_RETRY)
    task = asyncio.create_task(client.run())
    try:
        yield Bench(engine, client, task, reports, directory)
    finally:
        await client.stop(2.0, task)


async def outputs_of(client: EngineClient, *requests: Request) -> list[Output]:
    stream = client.submit(list(requests))
    outputs: list[Output] = []
    async with asyncio.timeout(10):
        while not stream.is_finished:
            outputs.append(await stream.next())
    return outputs


async def test_outputs_come_back_in_order_and_reports_are_counted(tmp_path: Path) -> None:
    async with bench(ScriptedEngine(two_tokens), tmp_path) as b:
        await b.phase(EnginePhase.READY)
        outputs = await outputs_of(b.client, request("a"))
        assert [type(output) for output in outputs] == [TokenOutput, TokenOutput, FinishedOutput]
        assert len(b.reports) == 2 and b.client.num_in_flight == 0
        assert b.client.status.limits == READY


async def test_requests_of_one_caller_share_a_stream(tmp_path: Path) -> None:
    async with bench(ScriptedEngine(two_tokens), tmp_path) as b:
        await b.phase(EnginePhase.READY)
        outputs = await outputs_of(b.client, request("a"), request("b"))
        assert {output.request_id for output in outputs if isinstance(output, FinishedOutput)} == {"a", "b"}


async def test_the_socket_belongs_to_this_user_alone(tmp_path: Path) -> None:
    async with bench(ScriptedEngine(two_tokens), tmp_path) as b:
        await b.phase(EnginePhase.READY)
        (path,) = b.directory.glob("*.sock")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_closing_a_stream_aborts_what_is_unfinished(tmp_path: Path) -> None:
    async with bench(ScriptedEngine(one_token_and_wait), tmp_path) as b:
        await b.phase(EnginePhase.READY)
        stream = b.client.submit([request("a")])
        await stream.next()
        stream.close()
        await asyncio.to_thread(b.engine.wait_until, lambda: b.engine.aborted == ["a"])


async def test_nothing_is_taken_before_the_engine_is_ready(tmp_path: Path) -> None:
    client = EngineClient(ScriptedEngine(two_tokens).launch, tmp_path, lambda report: None, PROMPT_RETRY)
    with pytest.raises(EngineUnavailable):
        client.submit([request("a")])


async def test_a_dead_engine_fails_what_it_ran_and_another_takes_its_place(tmp_path: Path) -> None:
    async with bench(ScriptedEngine(one_token_and_wait), tmp_path) as b:
        await b.phase(EnginePhase.READY)
        stream = b.client.submit([request("a")])
        await stream.next()
        b.engine.crash()
        last = await stream.next()
        assert isinstance(last, FinishedOutput) and last.reason is FinishReason.ERROR and last.error_code == "engine_unavailable"
        await b.phase(EnginePhase.RESTARTING)
        await b.phase(EnginePhase.READY)
        b.engine.release()
        assert len(await outputs_of(b.client, request("b"))) == 2
        assert b.engine.num_starts == 2


async def test_an_engine_that_says_it_cannot_start_is_not_started_again(tmp_path: Path) -> None:
    async with bench(ScriptedEngine(two_tokens, failure="ema.safetensors: truncated"), tmp_path) as b:
        await asyncio.wait_for(b.task, 10)
        assert (b.client.status.phase, b.client.status.reason) == (EnginePhase.FAILED, "ema.safetensors: truncated")
        assert b.engine.num_starts == 1


async def test_engines_that_die_before_they_are_ready_are_given_up(tmp_path: Path) -> None:
    async def launch(socket_path: Path) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec("false")

    client = EngineClient(launch, tmp_path, lambda report: None, PROMPT_RETRY)
    await asyncio.wait_for(client.run(), 10)
    assert client.status.phase is EnginePhase.FAILED and "3 times" in client.status.reason


async def test_an_engine_that_will_not_stop_is_ended_by_force(tmp_path: Path) -> None:
    process: list[asyncio.subprocess.Process] = []

    async def launch(socket_path: Path) -> asyncio.subprocess.Process:
        process.append(await asyncio.create_subprocess_exec("sleep", "1000"))
        return process[0]

    client = EngineClient(launch, tmp_path, lambda report: None, PROMPT_RETRY)
    task = asyncio.create_task(client.run())
    while not process:
        await asyncio.sleep(0)
    await client.stop(0.01, task)
    assert process[0].returncode == -9


async def test_a_busy_engine_that_says_nothing_is_noticed(tmp_path: Path) -> None:
    async with bench(ScriptedEngine(lambda asked: [[], [finish(asked)]]), tmp_path) as b:
        await b.phase(EnginePhase.READY)
        assert b.client.stalled_s == 0
        stream = b.client.submit([request("a")])
        await asyncio.to_thread(b.engine.wait_until, lambda: b.client.stalled_s > 0.01)
        b.engine.release()
        await stream.next()
        assert b.client.stalled_s == 0


async def test_the_engine_runs_from_this_installation_wherever_the_server_was_started(tmp_path: Path) -> None:
    """A directory that has a package of our name must not be taken for ours."""
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    process = await asyncio.create_subprocess_exec(*command_line(["--version"]), cwd=tmp_path, stdout=asyncio.subprocess.PIPE)
    await process.communicate()
    assert process.returncode == 0
