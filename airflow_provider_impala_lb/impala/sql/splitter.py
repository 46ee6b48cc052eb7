"""Cut a script into the statements a coordinator takes one at a time, by the rules of Impala's own lexer.

Whatever does not follow them (:mod:`.lexer`) cuts a script where the server would not, or drops hints. The words that
impala-shell keeps to itself (``SET VAR:``, ``${var:x}``, ``UNSET``, ``SOURCE``) are in :mod:`.shell_compat`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from airflow_provider_impala_lb.errors import ScriptError
from airflow_provider_impala_lb.impala.sql.lexer import (
    LINE_END,
    HintEnd,
    ScriptSyntaxError,
    landmark_pattern,
    landmarks,
    line_ends,
)
from airflow_provider_impala_lb.impala.sql.shell_compat import Shell

_SEMICOLON = landmark_pattern(";", ";")
_BLANKS = re.compile(r"[\s\ufeff]+")
_COMMENT = re.compile(r"--[^\r\n]*|/\*(?s:.)*?\*/")
_HINT = re.compile(r"(?:--|/\*) *\+[^\r\n]*")
_SAFE_MARK = re.compile(r"(?:--|/\*)\s*impala-lb:\s*safe\s+to\s+repeat\s*(?:\*/)?", re.IGNORECASE)
# No dialect has a statement that begins so: it is the second half of one that a ``;`` too many has cut.
_BEGINS_NO_STATEMENT = re.compile(
    r"(and|or|where|group|having|order|limit|on|join|union|intersect|then|else)(?![\w$])", re.IGNORECASE
)


class Statement(msgspec.Struct, frozen=True):
    """One statement of a script.

    :ivar line: line of the script, from 1, where the SQL itself begins: after blank lines and comments.
    :ivar sql: as it is sent: with its comments and hints, without ``;`` and without blanks around it.
    """

    line: int
    sql: str


def split(text: str, variables: Mapping[str, str] | None = None, *, name: str | None = None) -> list[Statement]:
    """Cut ``text`` into statements. Empty ones, and those of comments only, are left out.

    A byte order mark before a statement is dropped, as included files may begin with one; so is a comment before it
    that the server would take for a hint (``-- + text``). Blanks of any kind around a statement are dropped, as
    impala-shell does; in a statement every character Impala does not know (a NUL, a no-break space) is sent, for the
    server names it in its error.

    A comment ``-- impala-lb: safe to repeat`` behind a ``;``, on the same line, is of the statement before it.

    :param text: the script.
    :param variables: values of ``${var:name}`` and ``${hivevar:name}``; names without regard to case. None: none.
    :param name: what to call the script in errors, as a rule its file name; default ``script``.
    :raises ScriptError: a string, a quoted name or a block comment does not end; a variable is unknown; a statement
        begins with a word that begins none; or a command is one that only impala-shell can carry out.
    """
    text = text.removeprefix("\ufeff")
    shell = Shell(variables or {})
    statements: list[Statement] = []
    line, counted, takes_mark = 1, 0, False
    try:
        for part in _cut(text):
            if part.mark and takes_mark:
                last = statements.pop()
                statements.append(Statement(last.line, f"{last.sql} {part.mark}"))
                takes_mark = False  # once is enough
            if not part.body:
                continue
            if found := _BEGINS_NO_STATEMENT.match(part.body):
                raise ScriptSyntaxError(
                    f"no statement begins with '{found[0]}': is the ';' before it one too many?", part.first
                )
            sql = shell.to_send(part.lead, part.body, part.first)
            line, counted = line + line_ends(text, counted, part.first), part.first
            takes_mark = bool(sql)
            if sql:
                statements.append(Statement(line, sql))
    except ScriptSyntaxError as error:
        at = error.at
        column = at - max(text.rfind("\n", 0, at), text.rfind("\r", 0, at))
        raise ScriptError(error.message, line=1 + line_ends(text, 0, at), column=column, name=name) from None
    return statements


def is_blank(text: str) -> bool:
    """Whether a script holds nothing at all, not even a comment: then something else was meant.

    :param text: the script.
    """
    return not text.strip("\ufeff \t\r\n\f;")


def is_safe_mark(comment: str) -> bool:
    """Whether a comment says that its statement may be sent again: ``impala-lb: safe to repeat``.

    :param comment: with its ``--`` or ``/*``.
    """
    return _SAFE_MARK.fullmatch(comment) is not None


class _Part(NamedTuple):
    """What is between two semicolons.

    :ivar first: the offset where the SQL begins.
    :ivar lead: the comments before it.
    :ivar body: the SQL, or "".
    :ivar mark: a comment at the beginning that is of the statement before, or "".
    """

    first: int
    lead: str
    body: str
    mark: str


def _cut(text: str) -> Iterator[_Part]:
    """:raises ScriptSyntaxError: at whatever does not end."""
    position, in_hints = 0, HintEnd()
    while position < len(text):
        first, lead, mark = _read_lead(text, position)
        hint, end = -1, len(text)
        for found in landmarks(text, _SEMICOLON, first, in_hints=in_hints):
            if found[0] == ";":
                end = found.start()
                break
            hint = found.end()
        body = text[first:end].rstrip()
        # COMMENTED_PLAN_HINT_END of a ``-- +hint`` is the line end and nothing else: without it a hint at the end of a
        # statement (``from t -- +schedule_random_replica``) is a syntax error.
        needs_line_end = hint >= 0 and not LINE_END.search(text, hint, first + len(body))
        yield _Part(first, lead, body + "\n" * needs_line_end, mark)
        position = end + 1


def _read_lead(text: str, start: int) -> tuple[int, str, str]:
    """``(first, lead, mark)`` as in :class:`_Part`, for what begins at ``start``.

    impala-shell takes a hint there for a comment (``strip_leading_comment``), the server does not: no statement begins
    with one (``sql-parser.cup``). So it is left out.
    """
    kept, position, mark, mark_at, first_line = "", start, "", -1, start > 0
    while position < len(text):
        if found := _BLANKS.match(text, position):
            kept += found[0].replace("\ufeff", "")
            first_line = first_line and not LINE_END.search(found[0])
        elif found := _COMMENT.match(text, position):
            if first_line and is_safe_mark(found[0]):
                mark, mark_at = found[0], position
            elif not _HINT.fullmatch(found[0]):
                kept += found[0]
        else:
            if mark and first_line:
                raise ScriptSyntaxError(
                    "this comment stands between two statements on one line: put it on the line of the one that it is "
                    "about, before its ';'",
                    mark_at,
                )
            break
        position = found.end()
    return position, kept.lstrip(), mark
