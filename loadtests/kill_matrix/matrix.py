"""The cells: streams through a fault, held against an undisturbed run event by event."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from loadtests.fleet.box import Fleet
from loadtests.kill_matrix.client import SILENCE_S, Question, Transcript, ask
from loadtests.kill_matrix.faults import Fault, arm, inject
from loadtests.kill_matrix.questions import meaning, questions
from loadtests.percentile import percentile

NUM_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Cell:
    """What became of the streams of one fault in one phase. ``gap_p95_s``: 95 % of the streams were silent for no longer than that."""

    fault: str
    phase: str
    num_streams: int
    num_lost: int
    num_duplicated: int
    num_differing: int
    gap_p95_s: float
    problem: str = ""

    @property
    def is_clean(self) -> bool:
        return not (self.num_lost or self.num_duplicated or self.num_differing or self.problem)


async def answers(url: str, asked: Sequence[Question]) -> list[Transcript]:
    """Ask everything at once and read it all."""
    timeout = httpx.Timeout(30.0, connect=1.0, read=SILENCE_S)
    async with httpx.AsyncClient(base_url=url, timeout=timeout, limits=httpx.Limits(max_connections=None)) as http:
        return await asyncio.gather(*(ask(http, question) for question in asked))


async def undisturbed(fleet: Fleet, num_streams: int) -> list[Transcript]:
    """Return what the streams say when nothing happens."""
    return await answers(fleet.url, questions("undisturbed", num_streams))


async def run_cell(fleet: Fleet, fault: Fault, phase: str, expected: Sequence[Transcript]) -> Cell:
    """Run the streams of one cell, the first replica being the victim; again, where none of them came to it.

    The proxy shuns a victim for a while after the fault before this one: then nothing of it comes to the phase, and there was no fault.
    """
    for attempt in range(NUM_ATTEMPTS):
        cell, had_fault = await _attempt(fleet, fault, phase, expected, f"{fault.name}-{phase}-{attempt}".replace(" ", "-"))
        if had_fault:
            break
    return cell


async def _attempt(fleet: Fleet, fault: Fault, phase: str, expected: Sequence[Transcript], name: str) -> tuple[Cell, bool]:
    """Run the streams once; return what became of them and whether the fault came about."""
    fleet.wait_until_ready()
    victim = fleet.replicas[0]
    armed = arm(fault, phase, victim)
    problem = ""
    asking = asyncio.create_task(answers(fleet.url, questions(name, len(expected))))
    try:
        await asyncio.to_thread(inject, fault, phase, fleet, victim)
    except RuntimeError as error:
        problem = str(error)
    finally:
        armed.unlink(missing_ok=True)
    return judged(fault.name, phase, await asking, expected, problem), not problem


def judged(fault: str, phase: str, seen: Sequence[Transcript], expected: Sequence[Transcript], problem: str = "") -> Cell:
    """Hold what was seen against what was expected."""
    return Cell(
        fault=fault,
        phase=phase,
        num_streams=len(seen),
        num_lost=sum(not one.is_complete or set(one.ids) != set(range(1, len(one.ids) + 1)) for one in seen),
        num_duplicated=sum(len(one.ids) != len(set(one.ids)) for one in seen),
        num_differing=sum(_meanings(one) != _meanings(other) for one, other in zip(seen, expected, strict=True)),
        gap_p95_s=percentile([one.longest_gap_s for one in seen], 95),
        problem=problem or next((one.refusal for one in seen if one.refusal), ""),
    )


def _meanings(transcript: Transcript) -> list[str]:
    return [meaning(payload) for payload in transcript.payloads]


def table(cells: Sequence[Cell]) -> str:
    """Return the cells as lines of a table."""
    head = f"{'fault':16} {'phase':15} {'streams':>7} {'lost':>5} {'dupl.':>5} {'diff.':>5} {'p95 gap':>8}"
    lines = [
        f"{cell.fault:16} {cell.phase:15} {cell.num_streams:7} {cell.num_lost:5} {cell.num_duplicated:5} {cell.num_differing:5} "
        f"{cell.gap_p95_s:6.1f} s {cell.problem}"
        for cell in cells
    ]
    return "\n".join([head, *lines])
