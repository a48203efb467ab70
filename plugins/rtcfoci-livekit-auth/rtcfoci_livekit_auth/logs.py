"""The service's log: text or JSON lines, the number of a request in every line of it, and no secrets.

In: how records become lines, and what becomes of errors that nobody caught. Out: what is worth a line.

Our own messages name nothing secret. Messages of libraries may: aiohttp quotes the bytes of a request that
it cannot read, and an exception says what it could not digest. So of those a line has where they come from,
of exceptions only their kind and place.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import secrets
import sys
import threading
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TextIO

__all__ = ["FORMATS", "REQUEST", "loop_failed", "new_request", "set_up"]

_LOG = logging.getLogger(__name__)

REQUEST: ContextVar[str] = ContextVar("request", default="-")
"""The number of the request on whose account something happens."""
_OURS = "rtcfoci"
_FIELDS = ("endpoint", "status", "took_ms")
"""What a record may have beside its message."""
_MOST = 2000
_FRAMES = 4
_process = secrets.token_hex(3)
_numbers = itertools.count(1)


def new_request() -> str:
    """Give a number that no other request has, in this process or in others."""
    return f"{_process}-{next(_numbers)}"


def _kind(error: BaseException | None) -> str:
    """Give an exception's kind and place, and those of what caused it; never what it says."""
    kinds: list[str] = []
    while error is not None and len(kinds) < _FRAMES:
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        at = " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in reversed(frames))
        kinds.append(type(error).__name__ + (f" at {at}" if at else ""))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return ", caused by ".join(kinds)


def _message(record: logging.LogRecord) -> str:
    if record.name.partition(".")[0].startswith(_OURS):
        told = record.getMessage()
    elif record.args:
        told = str(record.msg)  # what would be filled in may be anything
    else:
        told = f"a message of {record.filename}:{record.lineno}"
    if record.exc_info and record.exc_info[1] is not None:
        told += f": {_kind(record.exc_info[1])}"
    return told[:_MOST]


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = _message(record)
        if not told.isprintable():
            # Names that clients choose shall not look like lines of ours.
            told = "".join(c if c.isprintable() else repr(c)[1:-1] for c in told)
        told += "".join(f" {name}={record.__dict__[name]}" for name in _fields(record))
        at = self.formatTime(record)
        return f"{at} {record.levelname} {record.name} {REQUEST.get()} {told}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "request": REQUEST.get(),
            "message": _message(record),
        }
        return json.dumps(line | {name: record.__dict__[name] for name in _fields(record)})


def _fields(record: logging.LogRecord) -> list[str]:
    return [name for name in _FIELDS if name in record.__dict__]


FORMATS: Mapping[str, type[logging.Formatter]] = {"text": _Text, "json": _Json}
"""By the name that the operator chooses; the first is the default."""


def set_up(*, level: str, form: str, to: TextIO | None = None) -> None:
    """Log from now on, and log what nobody catches.

    :param to: standard error by default.
    """
    handler = logging.StreamHandler(to)
    handler.setFormatter(FORMATS[form]())
    logging.basicConfig(
        handlers=[handler], level={"warn": "WARNING"}.get(level, level.upper()), force=True
    )
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _failed("a thread ended", args.exc_value)
    sys.unraisablehook = lambda args: _failed("an error was passed over", args.exc_value)


def loop_failed(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Log what an event loop reports, which names tasks and what they were given."""
    _failed(str(context.get("message", "")), context.get("exception"))


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        return
    _failed("the service ends", error)


def _failed(what: str, error: BaseException | None) -> None:
    _LOG.error("%s%s", what, f": {_kind(error)}" if error is not None else "")
