"""``plait doctor``: looks at everything `plait serve` would need with the same options, and names what is wrong."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from model.errors import CheckpointError
from model.shipped import STORYBOOK
from server.cli.command import Command, ExitStatus, Refused
from server.cli.doctor.checkpoint import check_checkpoint, check_memory, read_checkpoint, unreadable
from server.cli.doctor.finding import Finding, Verdict, fault, warning
from server.cli.doctor.machine import Accelerator, check_device, check_dtype, check_fp8, check_system, find_accelerator
from server.cli.doctor.services import check_cache, check_keys, check_port, check_store
from server.engine.options import NoSuchDevice
from server.settings import BadSettings, Settings, add_options, settings_from, unknown_variables

LESSON = """\
Look at the machine, the model and the services that plait serve would use, and name what is wrong with them.
Takes the options of plait serve, and reads the same PLAIT_ variables: put "doctor" where "serve" was.

examples:
  plait doctor                                      this machine, and the model that is served by default
  plait doctor --model ./BAGEL-7B-MoT               does it fit, is it whole, in which number format?
  plait doctor --model DIR --num-pages 64k          is there memory for so many pages?
  plait doctor --store redis://127.0.0.1:6379/0     is the store there, and does it keep what it is given?
  plait doctor --json | jq '.findings[] | select(.verdict != "ok")'

Every finding says what is wrong and what to do about it. Status 0: all is well, perhaps with warnings; 1: a fault was found.
"""

MARKS = {Verdict.OK: ("✓", "32"), Verdict.WARNING: ("!", "33"), Verdict.FAULT: ("✗", "31")}


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``plait serve``, and the command's own."""
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="write one JSON object: {ok, findings: [{check, verdict, says, remedy}]}")


def run(options: argparse.Namespace) -> ExitStatus:
    """Look at everything and report; faults make the status `FAILED`."""
    try:
        settings = settings_from(options)
    except BadSettings as error:
        raise Refused(str(error)) from error
    findings = list(examine(settings))
    if options.json:
        print(json.dumps(_as_json(findings), indent=2))
    else:
        write_report(findings, sys.stdout)
    return ExitStatus.FAILED if _num(findings, Verdict.FAULT) else ExitStatus.OK


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each thing looked at, from the machine to the services."""
    yield from check_system()
    for sentence in unknown_variables():
        yield warning("environment", sentence, "correct the name, or unset it; plait serve --help lists the options")
    try:
        accelerator = find_accelerator(settings.device)
    except NoSuchDevice as error:
        yield fault("device", error.says, error.remedy)
        accelerator = find_accelerator("cpu")
    else:
        yield from check_device(accelerator)
    yield check_dtype(settings.dtype, accelerator)
    wanted = {"--quantization": settings.quantization, "--kv-dtype": settings.kv_dtype}
    yield from check_fp8((option for option, value in wanted.items() if value == "fp8"), accelerator)
    yield from _examine_model(settings.model or STORYBOOK, accelerator, settings)
    yield check_cache(settings.cache_dir)
    yield check_port(settings.host, settings.port)
    if settings.metrics_port is not None:
        yield check_port(settings.metrics_host or settings.host, settings.metrics_port, "metrics-port")
    if settings.keys_file is not None:
        yield check_keys(settings.keys_file)
    if settings.store is not None:
        yield from check_store(settings.store.get_secret_value())


def _examine_model(path: Path, accelerator: Accelerator, settings: Settings) -> Iterator[Finding]:
    try:
        checkpoint = read_checkpoint(path, settings.family)
    except CheckpointError as error:
        yield unreadable(path, error)
        return
    yield from check_checkpoint(path, checkpoint)
    yield from check_memory(checkpoint, accelerator, settings)


def write_report(findings: Iterable[Finding], out: TextIO) -> None:
    """Write one line for each finding, and its remedy below; faults are summed up last."""
    findings = list(findings)
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark, colour = MARKS[finding.verdict]
        shown = f"\x1b[{colour}m{mark}\x1b[0m" if out.isatty() else mark
        out.write(f"{shown} {finding.check:{width}}  {finding.says}\n")
        if finding.remedy:
            out.write(f"  {'':{width}}  -> {finding.remedy}\n")
    faults, warnings = _num(findings, Verdict.FAULT), _num(findings, Verdict.WARNING)
    out.write(f"\n{faults or 'no'} fault{'' if faults == 1 else 's'}, {warnings or 'no'} warning{'' if warnings == 1 else 's'}\n")


def _num(findings: list[Finding], verdict: Verdict) -> int:
    return sum(finding.verdict is verdict for finding in findings)


def _as_json(findings: list[Finding]) -> dict[str, object]:
    entries = [
        {"check": finding.check, "verdict": finding.verdict.value, "says": finding.says, "remedy": finding.remedy} for finding in findings
    ]
    return {"ok": not _num(findings, Verdict.FAULT), "findings": entries}


COMMAND = Command("doctor [options of serve]", LESSON, add_doctor_options, run)
