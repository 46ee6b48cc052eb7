"""Cut a script into the statements a coordinator takes one at a time, by the rules of Impala's own lexer.

The rules are those of ``fe/src/main/jflex/sql-scanner.flex``: what a string, a quoted name, a comment and a
hint are. Whatever does not follow them cuts a script where the server would not, or drops hints. The words
that impala-shell keeps to itself (``SET VAR:``, ``${var:x}``, ``UNSET``, ``SOURCE``) are in
:mod:`airflow_provider_impala_lb.impala.sql.shell_compat`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from airflow_provider_impala_lb.errors import ScriptError
from airflow_provider_impala_lb.impala.sql.shell_compat import Refused, Shell, lead_end

# One search jumps to the next character that may change the meaning of a ``;`` and takes the whole token with
# it. Every alternative begins with a plain character, which lets ``re`` skip ordinary text at C speed.
#
# - Strings and quoted names (``SingleQuoteStringLiteral``, ``QuotedIdentifier``): a backslash takes any
#   character with it except a line end; a doubled quote is no escape. ``re`` keeps its place in memory for
#   each repetition, so the number of escapes is bounded here: :func:`quoted_end` goes on from there.
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
_QUOTED_PART = {q: re.compile(rf"(?:[^{q}\\]+|\\[^\r\n]){{1,1000}}") for q in "'\"`"}
_LINE_END = re.compile(r"[\r\n]")
_ENDLESS_COMMENT = "the comment that begins here with /* has no end"


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
        at = refused.at
        column = at - max(text.rfind("\n", 0, at), text.rfind("\r", 0, at))
        raise ScriptError(refused.message, line=1 + _line_ends(text, 0, at), column=column, name=name) from None
    return statements


def _cut(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield ``(first, lead, body)``: the offset where the SQL begins, the comments before it, the SQL.

    :raises Refused: at whatever does not end.
    """
    position = 0
    while position < len(text):
        first = lead_end(text, position)
        end, hint = _sql_end(text, first)
        if end > first:
            body = text[first:end].rstrip()
            # COMMENTED_PLAN_HINT_END of a ``-- +hint`` is the line end and nothing else: without it a hint at the
            # end of a statement (``from t -- +schedule_random_replica``) is a syntax error.
            needs_line_end = hint >= 0 and not _LINE_END.search(text, hint, first + len(body))
            yield first, text[position:first].lstrip(), body + "\n" * needs_line_end
        position = end + 1


def _sql_end(text: str, position: int) -> tuple[int, int]:
    """``(end, hint)``: the offset of the ``;`` that ends the statement, and that of its last ``-- +`` or -1."""
    hint, hint_end = -1, 0
    while found := _SPECIAL.search(text, position):
        special, position = found.span()
        kind = text[special]
        if kind == ";":
            return special, hint
        if kind == "-":
            hint = position if found.lastindex else hint
        elif kind != "/":
            if position == special + 1:
                position = quoted_end(text, special)
        elif position == special + 2:
            raise Refused(_ENDLESS_COMMENT, special)
        elif found.lastindex and special >= hint_end:  # no second look for an end from inside a hint
            end = text.find("*/", position)
            if end < 0:
                raise Refused(_ENDLESS_COMMENT, special)
            if _LINE_END.search(text, special, end):
                position = end + 2  # a hint stays on one line (``HintContent``): this is a comment
            else:
                hint_end = end
    return len(text), hint


def quoted_end(text: str, start: int) -> int:
    """Where the string or quoted name that begins at ``start`` ends: for those with many escapes, or broken."""
    quote, position = text[start], start + 1
    while part := _QUOTED_PART[quote].match(text, position):
        position = part.end()
    if text.startswith(quote, position):
        return position + 1
    what = f"the {'quoted name' if quote == '`' else 'string'} that begins here with {quote}"
    if position < len(text) - 1:
        # The lexer's escape is a backslash and a ``.``, which is no line end: there the string falls apart.
        line = 1 + _line_ends(text, 0, position)
        raise Refused(f"{what} has a backslash at the end of line {line}: Impala cannot read that, drop it", start)
    raise Refused(f"{what} has no end", start)


def _line_ends(text: str, start: int, end: int) -> int:
    """Line ends of all three kinds, as the lexer's ``LineTerminator`` has them."""
    return text.count("\n", start, end) + text.count("\r", start, end) - text.count("\r\n", start, end)
