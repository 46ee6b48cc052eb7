"""The words and signs of one statement, as Impala's own lexer sees them, and its comments.

The rules are those of :mod:`airflow_provider_impala_lb.impala.sql.splitter`: what stands in a string, a comment or a
hint is no word of the statement.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from airflow_provider_impala_lb.impala.sql.shell_compat import Refused
from airflow_provider_impala_lb.impala.sql.splitter import quoted_end

Kind = Literal["word", "name", "string", "number", "sign", "comment"]

# An identifier or keyword may begin with digits (``IdentifierOrKw`` of ``sql-scanner.flex``), so it is tried before a
# number; ``\w`` has letters beyond ASCII like Java's ``jletter``, which also knows ``$``.
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<comment>--[^\r\n]*|/\*(?s:.*?)\*/)
      | (?P<quote>['"`])
      | (?P<word>\d*[^\W\d][\w$]*|\d*\$[\w$]*)
      | (?P<number>\d+(?:\.\d+)?|\.\d+(?![\w$]))
      | (?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    """:param text: a word in lower case; a ``name`` (of backticks) in lower case and without them; else as written."""

    kind: Kind
    text: str


def tokens(sql: str) -> Iterator[Token]:
    """All of a statement but its blanks. Hints, which only the planner reads, come as comments.

    :raises Refused: a string, a quoted name or a comment has no end.
    """
    position = 0
    while position < len(sql):
        found = _TOKEN.match(sql, position)
        assert found is not None  # any character is a sign
        start, position = found.span()
        kind = found.lastgroup
        if kind == "quote":
            position = quoted_end(sql, start)
            if sql[start] == "`":
                yield Token("name", sql[start + 1 : position - 1].strip().lower())
            else:
                yield Token("string", sql[start:position])
        elif kind == "comment":
            yield Token("comment", found[0])
        elif kind == "word":
            yield Token("word", found[0].lower())
        elif kind == "number":
            yield Token("number", found[0])
        elif kind == "sign":
            if sql.startswith("/*", start):
                raise Refused("the comment that begins here with /* has no end", start)
            yield Token("sign", found[0])


class Reader:
    """A statement read from left to right. Comments, hints, and hints in brackets (``[SHUFFLE]``) are passed over.

    :raises Refused: see :func:`tokens`.
    """

    def __init__(self, sql: str) -> None:
        everything = list(tokens(sql))
        self.comments = [token.text for token in everything if token.kind == "comment"]
        self.tokens = _without_brackets([token for token in everything if token.kind != "comment"])
        self.at = 0

    @property
    def here(self) -> Token:
        """The next token; an empty sign at the end."""
        return self.tokens[self.at] if self.at < len(self.tokens) else Token("sign", "")

    def take(self, *words: str) -> str | None:
        """The next token if it is one of these words or signs: then it is passed."""
        token = self.here
        if token.kind not in ("word", "sign") or token.text not in words:
            return None
        self.at += 1
        return token.text

    def take_all(self, *words: str) -> bool:
        """These words one after the other, all or none."""
        start = self.at
        if all(self.take(word) for word in words):
            return True
        self.at = start
        return False

    def path(self) -> tuple[str, ...]:
        """A name of parts with dots between them; empty if none is here."""
        parts: list[str] = []
        while self.here.kind in ("word", "name"):
            parts.append(self.here.text)
            self.at += 1
            if not self.take("."):
                break
        return tuple(parts)

    def skip_to(self, *words: str) -> str | None:
        """Go on to the first of these words outside of parentheses, and stop before it. None: the end is reached."""
        depth = 0
        while self.at < len(self.tokens):
            token = self.here
            if depth == 0 and token.kind == "word" and token.text in words:
                return token.text
            if token.kind == "sign":
                depth += (token.text == "(") - (token.text == ")")
            self.at += 1
        return None


def _without_brackets(found: list[Token]) -> list[Token]:
    """Impala's SQL knows brackets only as the old way to write hints (``opt_plan_hints`` of ``sql-parser.cup``)."""
    kept, inside = [], False
    for token in found:
        if token == ("sign", "["):
            inside = True
        elif token == ("sign", "]"):
            inside = False
        elif not inside:
            kept.append(token)
    return kept
