"""What a statement is, by its first words."""

from __future__ import annotations

import re

_READS = re.compile(r"(select|values|show|describe|explain|with)\b", re.IGNORECASE)
_SESSION_ONLY = re.compile(r"(set|unset|use)\b", re.IGNORECASE)
_REPEATABLE = re.compile(r"(refresh|invalidate\s+metadata|compute\s+(incremental\s+)?stats)\b", re.IGNORECASE)
_LEADING = re.compile(r"(?:\s+|--[^\r\n]*|/\*.*?\*/|\()*", re.DOTALL)


def bare(sql: str) -> str:
    """The statement from its first word on, without the blanks, comments and parentheses before it."""
    return sql[_LEADING.match(sql).end() :]  # type: ignore[union-attr]  # it matches the empty string


def excerpt(sql: str, chars: int = 80) -> str:
    """How a statement begins, on one line, to recognise it by in a log."""
    text = " ".join(bare(sql)[: 4 * chars].split())
    return text if len(text) <= chars else text[: chars - 3] + "..."


def session_only(sql: str) -> bool:
    """SET and USE: they change the session and nothing else, so a script may begin anew after them."""
    return bool(_SESSION_ONLY.match(bare(sql)))


def reads_only(sql: str) -> bool:
    """Queries, SHOW, DESCRIBE, EXPLAIN. A name such as "inserted" in a WITH query only makes the answer more careful:
    WITH may lead an INSERT."""
    text = bare(sql)
    return bool(_READS.match(text)) and not re.search(r"\b(insert|upsert|update|delete|merge)\b", text, re.IGNORECASE)


def changes_nothing(sql: str) -> bool:
    """True for statements that may run twice without harm: queries, SET, USE, REFRESH and the like."""
    return session_only(sql) or reads_only(sql) or bool(_REPEATABLE.match(bare(sql)))
