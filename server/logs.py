"""Log lines, as text or as JSON. What users write is never logged; control characters are escaped, so that no line can be forged."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from server.settings import LogFormat

PROCESS_FIELD_WIDTH = 6
KNOWN_FIELDS = ("method", "route", "status", "elapsed_ms", "request_id")
"""Fields that a log call may add; they are members of their own in JSON."""


class TextFormatter(logging.Formatter):
    """``12:00:01 INFO   engine  message``, one line (a traceback apart) for each record."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of text."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname:7} {self._process:{PROCESS_FIELD_WIDTH}} {escaped(record.getMessage())}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object for each record."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
        fields: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name in KNOWN_FIELDS}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def escaped(text: str) -> str:
    """Return ``text`` with every control character written out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


Say = Callable[[str], None]
"""Tells whoever started this process one thing in one line."""


def announcer(out: TextIO, log_format: LogFormat, process: str, level: int = logging.INFO) -> Say:
    """Return what writes to ``out``, whatever level is logged: ``plait: …``, or an object as of the log lines where those are JSON."""
    formatter = JsonFormatter(process)

    def say(text: str) -> None:
        record = logging.LogRecord("plait", level, "", 0, "%s", (text,), None)
        out.write(f"{formatter.format(record) if log_format is LogFormat.JSON else f'plait: {text}'}\n")
        out.flush()

    return say


def configure_logs(level: str, log_format: LogFormat, process: str) -> None:
    """Send all log lines of this process, called ``process``, to standard error; as JSON, Python's warnings and last words too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if log_format is LogFormat.JSON else TextFormatter(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if log_format is LogFormat.JSON:
        logging.captureWarnings(True)
        sys.excepthook = _log_the_end
    # Ours names the route and the request id; these would say everything twice.
    for name in ("uvicorn.access", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _log_the_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger(__name__).critical("this process ends with an unexpected error", exc_info=(kind, error, trace))
