"""What travels when a script goes from one process to another: a worker hands it over, a trigger goes on with it.

The session stays on its coordinator, which takes its handle over any connection. Nothing of what travels is secret, for
Airflow logs it, and keeps a part of it as it is: the handle's secret and the text of the script are in the journal,
sealed (`Sealer`), and the text in the trigger's arguments is sealed, too.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from airflow_provider_impala_lb.core.state.model import Lease
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.sql.splitter import Statement

FORMAT = 1
"""Version of what a deferred task carries: its trigger's arguments, and the trigger's event. Each says it; a newer one
is refused by name (`check_format`). docs/design.md, "Two versions", says what is a new one, and what is to be done
then."""
LARGEST_SCRIPT = 256 << 10
"""Bytes, packed: a larger one does not fit into a journal (512 KiB) with all else, and stays with its worker."""


class Handover(msgspec.Struct):
    """What the next process needs.

    :param node: where the session is, ``host:port``.
    :param why: what spoke for this node.
    :param session: the session's id, as Impala prints it.
    :param epoch: in the journal, of the process that hands over.
    :param lease: on the node.
    :param query: id of the statement that is under way, or "".
    :param at: when this was handed over, by the store's clock.
    :param seconds: the script's time until then.
    :param unpublished: what other coordinators may not have heard of, of what was changed so far; None: not known.
    """

    node: str
    why: str
    session: str
    epoch: int
    lease: Lease
    query: str = ""
    at: float = 0.0
    seconds: float = 0.0
    unpublished: list[str] | None = None

    def seconds_until(self, now: float) -> float:
        """The script's time until now. No host's own clock has a part in it: others go by theirs.

        :param now: the store's clock.
        """
        return self.seconds + max(0.0, now - self.at)

    def packed(self) -> dict[str, Any]:
        """For the arguments of a trigger, and its events."""
        packed: dict[str, Any] = msgspec.to_builtins(self)
        return packed

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> Handover:
        """The inverse of :meth:`packed`.

        :param packed: what that returned.
        """
        return msgspec.convert(dict(packed), cls)


class Deferred(Exception):
    """The script was handed over.

    :param handover: what the next process needs.
    :param finished: what remains is to fetch the last statement's rows; default False.
    """

    def __init__(self, handover: Handover, *, finished: bool = False) -> None:
        super().__init__("the script was handed over")
        self.handover, self.finished = handover, finished


def check_format(message: Mapping[str, Any], advice: str) -> None:
    """Whether this version can read what another process of a deferred task has left to it.

    :param message: a trigger's argument, or its event.
    :param advice: what to do where it cannot, as the end of the error.
    :raises ConfigError: it was written by a newer version of this package.
    """
    found = message.get("format", 0)
    if found > FORMAT:
        raise ConfigError(
            f"What this deferred task carries was written by a newer version of this package (format {found}, this "
            f"version reads up to {FORMAT}): this process does nothing with it. {advice}"
        )


def pack_script(statements: Sequence[Statement], texts: Sequence[str]) -> str:
    """A script as one text, compressed.

    :param statements: as the author wrote them.
    :param texts: what is sent for each of them.
    """
    rows = [
        (statement.line, statement.sql, "" if statement.sql == text else text)
        for statement, text in zip(statements, texts, strict=True)
    ]
    return base64.b64encode(zlib.compress(msgspec.json.encode(rows))).decode()


def unpack_script(packed: str) -> tuple[list[Statement], list[str]]:
    """The inverse of :func:`pack_script`.

    :param packed: what that returned.
    :returns: statements and texts.
    """
    rows = msgspec.json.decode(zlib.decompress(base64.b64decode(packed)), type=list[tuple[int, str, str]])
    return [Statement(line=line, sql=sql) for line, sql, _ in rows], [text or sql for _, sql, text in rows]
