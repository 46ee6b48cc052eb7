"""The errors a coordinator answers with, in Impala's words."""

from __future__ import annotations

NOT_HERE = "the practice cluster does not have this"
"""What Impala has and the sandbox lacks is refused with these words: a guess would be worse."""


class Refused(Exception):
    """An answer with ERROR_STATUS. ``str()`` is the text on the wire."""

    def __init__(self, message: str, sql_state: str = "HY000") -> None:
        super().__init__(message)
        self.sql_state = sql_state


class StatementCancelled(Exception):
    """Raised inside a running statement once somebody cancelled it."""


def analysis_error(message: str) -> Refused:
    return Refused(f"AnalysisException: {message}")


def not_supported(what: str) -> Refused:
    """Valid for Impala, lacking here: not the author's mistake."""
    return analysis_error(f"{what} is not supported by the sandbox.")


def not_here(what: str) -> Refused:
    """Impala has it and the sandbox has not.

    :param what: as the author knows it, such as ``from_utc_timestamp()``.
    """
    return analysis_error(f"{what}: {NOT_HERE}.")


def parse_error(message: str) -> Refused:
    return Refused(f"ParseException: {message}")


def syntax_error(sql: str, offset: int, encountered: str, expected: str = "") -> Refused:
    """Impala's layout: the line, a caret under the place, what stood there, what could have."""
    line = sql.count("\n", 0, offset) + 1
    start = sql.rfind("\n", 0, offset) + 1
    end = sql.find("\n", offset)
    shown = sql[start : len(sql) if end < 0 else end]
    return parse_error(
        f"Syntax error in line {line}:\n{shown}\n{' ' * (offset - start)}^\n"
        f"Encountered: {encountered}\nExpected: {expected}\n\nCAUSED BY: Exception: Syntax error"
    )


def server_error(message: str) -> Refused:
    """What the catalog service or the metastore refuses, after analysis has passed."""
    return Refused(f"ImpalaRuntimeException: {message}")
