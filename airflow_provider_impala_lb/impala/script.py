"""Cut a script into the statements a coordinator takes one at a time, by the rules of Impala's own lexer.

The rules are those of ``fe/src/main/jflex/sql-scanner.flex``: what a string, a quoted name, a comment and a
hint are. Whatever does not follow them cuts a script where the server would not, or drops hints. The words
that impala-shell keeps to itself (``SET VAR:``, ``${var:x}``, ``UNSET``, ``SOURCE``) are in
:mod:`airflow_provider_impala_lb.impala.shell_commands`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from airflow_provider_impala_lb.errors import ScriptError
from airflow_provider_impala_lb.impala.shell_commands import Refused, Shell

# One search jumps to the next character that may change the meaning of a ``;`` and takes the whole token with
# it. Every alternative begins with a plain character, which lets ``re`` skip ordinary text at C speed.
#
# - Strings and quoted names (``SingleQuoteStringLiteral``, ``QuotedIdentifier``): a backslash takes any
#   character with it except a line end; a doubled quote is no escape. ``re`` keeps its place in memory for
#   each repetition, so the number of escapes is bounded here: :func:`_quoted_end` goes on from there.
# - ``--`` ends at CR or LF. Blanks (no tabs) and a ``+`` after ``--`` or ``/*`` begin a hint (``EolHintBegin``,
#   ``CommentedHintBegin``), whose content is lexed like any other SQL: only its beginning is taken.
# - ``/* */`` does not nest (``TraditionalComment``).
_SPECIAL = re.compile(
    r"""
      ;
    | '(?:[^'\\]*(?:\\[^\r\n][^'\\]*){0,50}')?
    | "(?:[^"\\]*(?:\\[^\r\n][^"\\]*){0,50}")?
    | `(?:[^`\\]*(?:\\[^\r\n][^`\\]*){0,50}`)?
    | --(?:[ ]*(\+)|[^\r\n]*)
    | /\*(?:[ ]*(\+)|(?s:.)*?\*/)?
    """,
    re.VERBOSE,
)
_QUOTED_PART = {q: re.compile(rf"[^{q}\\]*(?:\\[^\r\n][^{q}\\]*){{0,1000}}") for q in "'\"`"}
_NOT_BLANK = re.compile(r"\S")
_LINE_END = re.compile(r"[\r\n]")


class Statement(msgspec.Struct, frozen=True):
    """One statement of a script.

    :param line: line of the script, from 1, where the SQL itself begins: after blank lines and comments.
    :param sql: as it is sent: with its comments and hints, without ``;`` and without blanks around it.
    """

    line: int
    sql: str


def split(text: str, variables: Mapping[str, str] | None = None, *, name: str | None = None) -> list[Statement]:
    """Cut ``text`` into statements. Empty ones, and those of comments only, are left out.

    A byte order mark before the script is dropped. Every other character Impala does not know (a NUL, a no-break
    space, a second byte order mark) is sent, for the server names it in its error.

    :param variables: values of ``${var:name}`` and ``${hivevar:name}``; names without regard to case.
    :param name: what to call the script in errors, as a rule its file name.
    :raises ScriptError: a string, a quoted name or a block comment does not end; a variable is unknown;
        or a command is one that only impala-shell can carry out.
    """
    text = text.removeprefix("\ufeff")
    shell = Shell(variables or {})
    statements = []
    line, counted = 1, 0
    try:
        for first, lead, body in _cut(text):
            sql = shell.to_send(lead, body, first)
            line, counted = line + _line_ends(text, counted, first), first
            if sql:
                statements.append(Statement(line, sql))
    except Refused as refused:
        line_start = max(text.rfind("\n", 0, refused.at), text.rfind("\r", 0, refused.at)) + 1
        place = {"line": 1 + _line_ends(text, 0, line_start), "column": 1 + refused.at - line_start}
        raise ScriptError(refused.message, name=name, **place) from None
    return statements


def _cut(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield ``(first, lead, body)``: the offset where the SQL begins, the comments before it, the SQL.

    :raises Refused: at whatever does not end.
    """
    begin = first = hint = -1  # offsets in this statement: first character, first of its SQL, last ``-- +``
    hint_end = 0
    position = 0
    while position < len(text):
        found = _SPECIAL.search(text, position)
        special = found.start() if found else len(text)
        if first < 0 and (plain := _NOT_BLANK.search(text, position, special)):
            first = plain.start()
            begin = first if begin < 0 else begin
        if found is None:
            break
        position = found.end()
        kind = text[special]
        if kind == ";":
            if first >= 0:
                yield first, text[begin:first], _body(text, first, special, hint)
            begin = first = hint = -1
            continue
        begin = special if begin < 0 else begin
        if kind == "-":
            if found.lastindex and first >= 0:
                hint = position
            elif found.lastindex:
                position = _end_of_line(text, position)
        elif kind == "/":
            if special < hint_end:
                continue
            position, is_hint = _comment(text, found)
            if is_hint and first >= 0:
                hint_end, position = position, found.end()
        else:
            if position == special + 1:
                position = _quoted_end(text, special)
            first = special if first < 0 else first
    if first >= 0:
        yield first, text[begin:first], _body(text, first, len(text), hint)


def _body(text: str, first: int, end: int, hint: int) -> str:
    """The SQL without the blanks after it, but with the line end that its last ``-- +hint`` needs.

    ``COMMENTED_PLAN_HINT_END`` of such a hint is the line end and nothing else: without it a hint at the very
    end of a statement (``from t -- +schedule_random_replica``) is a syntax error.
    """
    body = text[first:end].rstrip()
    if hint >= 0 and not _LINE_END.search(text, hint, first + len(body)):
        return body + "\n"
    return body


def _comment(text: str, found: re.Match[str]) -> tuple[int, bool]:
    """Where the ``/* */`` that ``found`` begins ends, and whether it is a hint: one line, with a ``+`` first."""
    start = found.start()
    end = text.find("*/", start + 2) + 2 if found.lastindex else found.end()
    if end <= start + 2:
        raise Refused("the comment that begins here with /* has no end", start)
    return end, bool(found.lastindex) and not _LINE_END.search(text, start, end)


def _quoted_end(text: str, start: int) -> int:
    """Where the string or quoted name that begins at ``start`` ends: for those with many escapes, or broken."""
    quote = text[start]
    what = "quoted name" if quote == "`" else "string"
    position = start + 1
    while True:
        position = _QUOTED_PART[quote].match(text, position).end()  # type: ignore[union-attr]
        if text.startswith(quote, position):
            return position + 1
        after = text[position + 1 : position + 2]
        if position >= len(text) - 1:
            raise Refused(f"the {what} that begins here with {quote} has no end", start)
        if after in "\r\n":
            raise Refused(
                f"the {what} that begins here has a backslash before a line end, which Impala cannot read: "
                "write \\\\n, or leave the backslash out",
                start,
            )


def _end_of_line(text: str, position: int) -> int:
    end = _LINE_END.search(text, position)
    return end.start() if end else len(text)


def _line_ends(text: str, start: int, end: int) -> int:
    """Line ends of all three kinds, as the lexer's ``LineTerminator`` has them."""
    return text.count("\n", start, end) + text.count("\r", start, end) - text.count("\r\n", start, end)
