"""What is said of one statement or session: its id, its end, its error, and the texts of its log and profile."""

from __future__ import annotations

import re
import struct

import msgspec

_STACK = re.compile(r"^\t(?:at |\.\.\. \d+ more).*(?:\n|\Z)|^Driver stacktrace:\n", re.MULTILINE)
_ID = re.compile(r"[0-9a-f]{16}:[0-9a-f]{16}")
_PROGRESS = re.compile(r"Query [0-9a-f:]+:? *\d+% Complete \(\d+ out of \d+\)")
_TIMELINE = re.compile(r"^ *Query Timeline: .*\n((?: *- .*\n?)*)", re.MULTILINE)
_EVENT = re.compile(r"- (.*): (\S+) \(\S+\)$", re.MULTILINE)
_TIME = re.compile(r"([\d.]+)(h|ms|us|ns|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_APPLIED = re.compile(r"Applied catalog (updates from DDL|version \d+)|Transaction committed")


class StatementError(Exception):
    """A statement failed.

    :param text: the server's, or the connection's.
    :param query_id: default None: the statement has no handle, the failure came in place of one.
    :ivar query_id: as given.
    :ivar unanswered: it was sent, nothing came back, and its session was closed so that it can be sent in another one.
    """

    def __init__(self, text: str, *, query_id: str | None = None) -> None:
        super().__init__(text)
        self.query_id = query_id
        self.unanswered = False


class StatementEnd(msgspec.Struct):
    """How a statement ended well.

    :ivar query_id: as Impala prints it.
    :ivar rows: how many were modified by DML; None: it is none, or does not say.
    :ivar seconds: from sending to the end.
    :ivar warnings: what its log says, without its progress; default "".
    """

    query_id: str
    rows: int | None
    seconds: float
    warnings: str = ""


def print_id(guid: bytes) -> str:
    """A query or session id as Impala prints it: two little-endian 64-bit numbers (impala util/uid-util.h).

    :param guid: 16 bytes.
    """
    return "{:016x}:{:016x}".format(*struct.unpack("<QQ", guid))


def is_id(text: str) -> bool:
    """Whether it is an id as :func:`print_id` gives it.

    :param text: any.
    """
    return _ID.fullmatch(text) is not None


def guid_of(printed: str) -> bytes:
    """The inverse of :func:`print_id`.

    :param printed: an id.
    :returns: 16 bytes.
    """
    first, second = printed.split(":")
    return struct.pack("<QQ", int(first, 16), int(second, 16))


def progress_in(log: str | None) -> list[str]:
    """The lines of a statement's log that tell its progress (impala util/progress-updater.cc).

    :param log: the log; None: it has none.
    """
    return _PROGRESS.findall(log or "")


def warnings_in(log: str | None) -> str:
    """A statement's log without its progress.

    :param log: the log; None: it has none.
    """
    return _PROGRESS.sub("", log or "").strip()


def applied_at(profile: str) -> float | None:
    """When a statement's coordinator had the catalog service's word that its work is done, and had taken over what came
    of it: with SYNC_DDL the other coordinators are all that it waits for then.

    Events of the timeline, since Impala 4.3 (``ImpalaServer::ProcessCatalogUpdateResult``, called only after the
    catalog service has said OK) and 4.4; of ACID tables since 3.4 (``ClientRequestState::UpdateCatalog``). Others of
    those older versions show nothing between the last row that was written and the end of all. CREATE TABLE AS SELECT
    has them twice: those of its first step, before its rows, say nothing of its end.

    :param profile: the runtime profile, as text.
    :returns: seconds since the statement came; None: it may be at work, or that is not known.
    """
    timelines = _TIMELINE.findall(profile)  # what a statement says itself comes before the last one
    events = _EVENT.findall(timelines[-1]) if timelines else []
    if "DDL Type: CREATE_TABLE_AS_SELECT" in profile:
        written = [number for number, (name, _) in enumerate(events) if name == "DML data written"]
        events = events[written[-1] :] if written else []
    return next((_seconds(at) for name, at in events if _APPLIED.fullmatch(name)), None)


def _seconds(printed: str) -> float:
    """A time as Impala prints it (util/pretty-printer.h): ``1h2m``, ``3m4s``, ``5s678ms``, ``9.012ms``. Hours come
    without seconds: they are rounded up."""
    parts = _TIME.findall(printed)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts) + (60.0 if "h" in printed else 0.0)


def without_stack(message: str) -> str:
    """An error's text without Java's stack traces, and each cause only once: Spark sends a hundred lines, where Impala
    sends the one that is read. A text without a stack is left as it is.

    :param message: the error's.
    """
    if "\n\tat " not in message:
        return message
    text, *causes = re.split(r"^Caused by: ", _STACK.sub("", message), flags=re.MULTILINE)
    for cause in causes:
        if cause.strip() not in text:
            text = f"{text.rstrip()}\nCaused by: {cause}"
    return text.strip()
