"""What the doctor says of one thing it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """It will work, but not as well as it could."""
    FAULT = "fault"
    """The server would not start, or would lose what it promises to keep."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``says`` names what was found with its numbers; ``remedy`` what to do about it, empty when all is well."""

    check: str
    verdict: Verdict
    says: str
    remedy: str = ""


def fine(check: str, says: str) -> Finding:
    """Return a finding that needs nothing done."""
    return Finding(check, Verdict.OK, says)


def warning(check: str, says: str, remedy: str) -> Finding:
    """Return a finding that the server can live with."""
    return Finding(check, Verdict.WARNING, says, remedy)


def fault(check: str, says: str, remedy: str) -> Finding:
    """Return a finding that the server cannot live with."""
    return Finding(check, Verdict.FAULT, says, remedy)
