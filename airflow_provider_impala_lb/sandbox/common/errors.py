"""The errors a coordinator answers with, with Impala's texts."""

from __future__ import annotations

NOT_HERE = "the practice cluster does not have this"
"""What Impala has and the sandbox lacks is refused with this text: a guess would be worse."""


class Refused(Exception):
    """An answer with ERROR_STATUS.

    :param message: the text on the wire, ``str()`` of the exception.
    :param sql_state: as in SQL; default ``HY000``.
    :ivar sql_state: the same.
    :ivar query_id: of the statement it is about, as printed; empty: of none, or not known.
    """

    def __init__(self, message: str, sql_state: str = "HY000") -> None:
        super().__init__(message)
        self.sql_state = sql_state
        self.query_id = ""


class StatementCancelled(Exception):
    """Raised inside a running statement once somebody cancelled it."""


def analysis_error(message: str) -> Refused:
    """What Impala's analysis refuses.

    :param message: without the name of the exception.
    """
    return Refused(f"AnalysisException: {message}")


def not_supported(what: str) -> Refused:
    """Valid for Impala, lacking here: not the author's mistake.

    :param what: a clause or statement.
    """
    return analysis_error(f"{what} is not supported by the sandbox.")


def not_here(what: str) -> Refused:
    """Impala has it and the sandbox has not.

    :param what: as the author knows it, such as ``from_utc_timestamp()``.
    """
    return analysis_error(f"{what}: {NOT_HERE}.")


def syntax_error(sql: str, offset: int, encountered: str, expected: str = "") -> Refused:
    """A ParseException in Impala's layout: the line, a caret under the place, what stood there, what could have.

    :param sql: the statement.
    :param offset: of the place in it, in characters from 0.
    :param encountered: what stands there.
    :param expected: what could stand there; default empty.
    """
    line = sql.count("\n", 0, offset) + 1
    start = sql.rfind("\n", 0, offset) + 1
    end = sql.find("\n", offset)
    shown = sql[start : len(sql) if end < 0 else end]
    return Refused(
        f"ParseException: Syntax error in line {line}:\n{shown}\n{' ' * (offset - start)}^\n"
        f"Encountered: {encountered}\nExpected: {expected}\n\nCAUSED BY: Exception: Syntax error"
    )


def server_error(message: str) -> Refused:
    """What the catalog service or the metastore refuses, after analysis has passed.

    :param message: without the name of the exception.
    """
    return Refused(f"ImpalaRuntimeException: {message}")
