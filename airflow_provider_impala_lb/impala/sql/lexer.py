"""The words and signs of a statement, as Impala's own lexer sees them.

The rules are those of ``fe/src/main/jflex/sql-scanner.flex``: what a string, a quoted name, a comment, a hint and a
letter are. Impala builds it with jflex 1.4.3 (``fe/pom.xml``), where a ``.`` is any character but LF.

Two ways to read a text: :func:`landmarks` jumps from one sign to the next at the speed of ``re``, for those who only
must not look into strings and comments; :class:`Reader` goes token by token, and reads no further than it is asked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["word", "name", "string", "number", "sign", "comment", "hint", "unexpected", "end"]


class ScriptSyntaxError(Exception):
    """A text that Impala's lexer, or impala-shell, would not take.

    :param message: what is wrong.
    :param at: the offset in the text that it is about.
    :ivar message: as given.
    :ivar at: as given.
    """

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.message = message
        self.at = at


# Strings and quoted names (``SingleQuoteStringLiteral``, ``QuotedIdentifier``): a backslash takes any character with it
# except LF; a doubled quote is no escape. ``re`` keeps its place in memory for each repetition, so their number is
# bounded: `quoted_end` goes on from there. ``--`` ends at CR or LF. Blanks (no tabs) and a ``+`` after ``--`` or ``/*``
# begin a hint (``EolHintBegin``, ``CommentedHintBegin``), whose content is lexed like any other SQL, so only its
# beginning is taken here. ``/* */`` does not nest (``TraditionalComment``). ``*/`` is a token of its own
# (``CommentedHintEnd``), so in ``/*+x*/*`` no second comment begins.
#
# Each alternative begins with a plain character: only then does ``re`` skip ordinary text at the speed of C. The first
# one takes many short strings at once.
_QUOTED_AND_COMMENTS = r"""
      '[^'\\]*'[^'"`/*\-{stops}]*(?:'[^'\\]*'[^'"`/*\-{stops}]*){{0,100}}
    | '(?:[^'\\]*(?:\\[^\n][^'\\]*){{0,50}}')?
    | "(?:[^"\\]*(?:\\[^\n][^"\\]*){{0,50}}")?
    | `(?:[^`\\]*(?:\\[^\n][^`\\]*){{0,50}}`)?
    | --(?:[ ]*(?P<line_hint>\+)|[^\r\n]*)
    | /\*(?:[ ]*(?P<hint>\+)|(?s:.)*?\*/)?
    | \*/
"""
_QUOTED_PART = {q: re.compile(rf"(?:[^{q}\\]+|\\[^\n]){{1,1000}}") for q in "'\"`"}
LINE_END = re.compile(r"[\r\n]")
ENDLESS_COMMENT = "the comment that begins here with /* has no end"


def landmark_pattern(signs: str, stops: str) -> re.Pattern[str]:
    """What :func:`landmarks` looks for.

    :param signs: a pattern of what is looked for. Each of its alternatives begins with a plain character, and none with
        one of ``'"`-/*``.
    :param stops: the characters that ``signs`` may begin with, for a character class.
    """
    return re.compile(f"{signs} | {_QUOTED_AND_COMMENTS.format(stops=stops)}", re.VERBOSE)


@dataclass
class HintEnd:
    """How far a text is known to be in a hint: who reads it in several goes hands this on from one to the next.

    Without it each go would look for the same end again, as far away as it may be.

    :ivar at: the offset of that end.
    """

    at: int = 0


def landmarks(
    text: str, pattern: re.Pattern[str], position: int = 0, *, in_hints: HintEnd | None = None, also: str = ""
) -> Iterator[re.Match[str]]:
    """The signs of ``pattern`` that are outside of strings, quoted names, comments and hints.

    :param text: SQL.
    :param pattern: of :func:`landmark_pattern`.
    :param position: the offset to begin at; default 0.
    :param in_hints: look into hints, too, and give also where ``-- +`` hints begin. None: pass over them.
    :param also: give what begins so as well: ``-`` and ``/`` for comments, without those that look like a hint; a
        backtick for quoted names, of which a match may end too early. Default "": nothing more.
    :returns: their matches, in order.
    :raises ScriptSyntaxError: a string, a quoted name, a comment or a hint has no end.
    """
    while found := pattern.search(text, position):
        start, position = found.span()
        kind = text[start]
        if kind in "'\"`":
            if position == start + 1:
                position = quoted_end(text, start)
            if kind in also:
                yield found
        elif kind == "/":
            if position == start + 2:
                raise ScriptSyntaxError(ENDLESS_COMMENT, start)
            if not found["hint"]:
                if kind in also:
                    yield found
            elif in_hints is None or start >= in_hints.at:  # no second look for an end from inside a hint
                end = text.find("*/", position)
                if end < 0:
                    raise ScriptSyntaxError(ENDLESS_COMMENT, start)
                if LINE_END.search(text, start, end):
                    position = end + 2  # a hint stays on one line (``HintContent``): this is a comment
                elif in_hints is not None:
                    in_hints.at = end
                else:
                    position = _hint_end(text, start, position)
        elif kind == "-":
            if not found["line_hint"]:
                if kind in also:
                    yield found
            elif in_hints is not None:
                yield found
            else:
                position = _line_hint_end(text, position)
        elif kind != "*":
            yield found


def quoted_end(text: str, start: int) -> int:
    """Where a string or a quoted name ends.

    :param text: SQL.
    :param start: the offset of its first quote.
    :raises ScriptSyntaxError: it has no end.
    """
    quote, position = text[start], start + 1
    while part := _QUOTED_PART[quote].match(text, position):
        position = part.end()
    if text.startswith(quote, position):
        return position + 1
    what = f"the {'quoted name' if quote == '`' else 'string'} that begins here with {quote}"
    if position < len(text) - 1:
        # The lexer's escape is a backslash and a ``.``, which is no LF: there the string falls apart.
        line = 1 + line_ends(text, 0, position)
        raise ScriptSyntaxError(
            f"{what} has a backslash at the end of line {line}: Impala cannot read that, drop it", start
        )
    raise ScriptSyntaxError(f"{what} has no end", start)


def line_ends(text: str, start: int, end: int) -> int:
    """How many line ends there are, of all three kinds, as the lexer's ``LineTerminator`` has them.

    :param text: SQL.
    :param start: the first offset.
    :param end: behind the last one.
    """
    return text.count("\n", start, end) + text.count("\r", start, end) - text.count("\r\n", start, end)


class Token(NamedTuple):
    """One token.

    :ivar kind: see :data:`Kind`.
    :ivar text: a word in lower case; a ``name`` (of backticks) in lower case and without them; else as written.
    :ivar start: its offset in the text.
    :ivar end: the offset of what follows.
    """

    kind: Kind
    text: str
    start: int
    end: int


# The lexer takes the longest match, and of equal ones a number before an identifier. An identifier may begin with
# digits, also behind a dot (``IdentifierOrKw``). The signs of two characters are those that would read otherwise.
_ODD = r"\x00-\x08\x0e-\x1b\x7f-\U0010ffff"
_TOKEN = re.compile(
    r"""(?P<space>[ \t\f\r\n]+)
      | (?P<number>
            (?:[0-9]+\.[0-9]*(?:[eE][+-]?[0-9]+)?
          | [0-9]+[eE][+-][0-9]+
          | \.?[0-9]+(?:[eE][+-]?[0-9]+)?(?![0-9A-Za-z_$])))
      | (?P<word>[0-9]*[A-Za-z_$][0-9A-Za-z_$]*)
      | (?P<quote>['"`])
      | (?P<comment>--(?:[ ]*(?P<line_hint>\+)|[^\r\n]*)|/\*(?:[ ]*(?P<hint>\+)|(?s:.)*?\*/)?)
      | (?P<sign>\*/|&&|\|\||!=|\.\.\.|[:;,.*()\[\]/%+\-&|^~=!<>])
      | (?P<odd>.)""",
    re.VERBOSE | re.DOTALL,
)
JAVA_BLANKS = "".join(map(chr, range(0x21)))  # what String.trim() takes off
_IS_ODD = re.compile(f"[{_ODD}]")
_LINE_END = re.compile(r"\r\n|\r|\n")  # ``LineTerminator``
_LINE_HINT_BLANK = re.compile(r"[ \t\f]*(\r\n|\r|\n)?")


def token_at(text: str, position: int) -> Token:
    """The next token at or after an offset, comments and whole hints included; of kind ``end`` behind the last one.

    :param text: SQL.
    :param position: the offset, outside of any token.
    :raises ScriptSyntaxError: a string, a quoted name, a comment or a hint has no end.
    """
    found = _TOKEN.match(text, position)
    if found is not None and found.lastgroup == "space":
        position = found.end()
        found = _TOKEN.match(text, position)
    if found is None:
        return Token("end", "", len(text), len(text))
    start, end = found.span()
    kind = found.lastgroup
    if kind in ("word", "number"):
        if end < len(text) and _IS_ODD.match(text, end):
            if text[start] == "." and _identifier_end(text, start + 1) > end:
                return Token("sign", ".", start, start + 1)  # ``\. {Identifier}`` is longer than the number
            longer = _identifier_end(text, start)
            kind, end = ("word", longer) if longer > end else (kind, end)
        written = text[start:end]
        return Token("word", written.lower(), start, end) if kind == "word" else Token("number", written, start, end)
    if kind == "sign":
        return Token("sign", found[0], start, end)
    if kind == "quote":
        end = quoted_end(text, start)
        if text[start] == "`":
            return Token("name", text[start + 1 : end - 1].strip(JAVA_BLANKS).lower(), start, end)
        return Token("string", text[start:end], start, end)
    if kind == "odd":
        end = _identifier_end(text, start)
        return (
            Token("word", text[start:end].lower(), start, end)
            if end > start
            else Token("unexpected", text[start], start, start + 1)
        )
    return _comment_or_hint(text, found)


def _comment_or_hint(text: str, found: re.Match[str]) -> Token:
    start, end = found.span()
    if found["line_hint"]:
        end = _line_hint_end(text, end)
        return Token("hint", text[start:end], start, end)
    if text[start] == "/":
        if end == start + 2:
            raise ScriptSyntaxError(ENDLESS_COMMENT, start)
        if found["hint"]:
            close = text.find("*/", end)
            if close < 0:
                raise ScriptSyntaxError(ENDLESS_COMMENT, start)
            if LINE_END.search(text, start, close):
                return Token("comment", text[start : close + 2], start, close + 2)
            end = _hint_end(text, start, end)
            return Token("hint", text[start:end], start, end)
    return Token("comment", found[0], start, end)


def _hint_end(text: str, start: int, position: int) -> int:
    """Of ``/* +``: at the first ``*/`` that is a token of its own, not the end of a comment or within a string."""
    while True:
        token = _in_hint(text, position)
        if token.kind == "end":
            raise ScriptSyntaxError("the hint that begins here with /* has no end", start)
        position = token.end
        if token.text == "*/":
            return position


def _line_hint_end(text: str, position: int) -> int:
    """Of ``-- +``: at its line end, or that of the text. A comment in it takes the line end for itself
    (``EndOfLineComment``), and the hint goes on behind it."""
    while True:
        blank = _LINE_HINT_BLANK.match(text, position)
        assert blank is not None
        position = blank.end()
        if blank[1] or position == len(text):
            return position
        token = _in_hint(text, position)
        position = token.end
        if (
            token.kind == "comment"
            and text.startswith("--", token.start)
            and (taken := _LINE_END.match(text, position))
        ):
            position = taken.end()


def _in_hint(text: str, position: int) -> Token:
    """A token inside of a hint, where the beginning of another hint is nothing but signs: the lexer has no state for
    hints of this kind, so the first ``*/`` is the end of all of them (``COMMENTED_PLAN_HINT_END``)."""
    found = _TOKEN.match(text, position)
    if found is not None and found.lastgroup == "space":
        position = found.end()
        found = _TOKEN.match(text, position)
    if found is not None and (found["hint"] or found["line_hint"]):
        return Token("sign", found[0], *found.span())
    return token_at(text, position)


# Java's isJavaIdentifierStart and isJavaIdentifierPart, which jflex reads ``[:jletter:]`` and ``[:jletterdigit:]`` as,
# for each ``char``: what is beyond U+FFFF are two surrogates to it, and no letters.
_STARTS = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nl", "Sc", "Pc"})
_PARTS = _STARTS | {"Nd", "Mc", "Mn", "Cf"}
_IGNORABLE = frozenset(map(chr, [*range(0x09), *range(0x0E, 0x1C), *range(0x7F, 0xA0)]))


def is_identifier_part(char: str) -> bool:
    """Whether an identifier that is followed by this character goes on with it.

    :param char: one character.
    """
    return char <= "\uffff" and (unicodedata.category(char) in _PARTS or char in _IGNORABLE)


def _identifier_end(text: str, start: int) -> int:
    """Where the ``[:digit:]*[:jletter:][:jletterdigit:]*`` at ``start`` ends; ``start`` if there is none."""
    end = start
    while end < len(text) and text[end] <= "\uffff" and unicodedata.category(text[end]) == "Nd":
        end += 1
    if end == len(text) or text[end] > "\uffff" or unicodedata.category(text[end]) not in _STARTS:
        return start
    while end < len(text) and is_identifier_part(text[end]):
        end += 1
    return end


def tokens(text: str) -> Iterator[Token]:
    """All tokens, comments and hints included.

    :param text: SQL.
    :raises ScriptSyntaxError: see :func:`token_at`.
    """
    token = token_at(text, 0)
    while token.kind != "end":
        yield token
        token = token_at(text, token.end)


def mentions_of(name: str, text: str) -> Iterator[int]:
    """Where a name stands, with or without backticks, outside of strings, comments and hints.

    In doubt one more: behind a digit, which may be the end of a number or a part of the name.

    :param name: in lower case.
    :param text: SQL.
    :returns: offsets in ``text``.
    :raises ScriptSyntaxError: see :func:`landmarks`.
    """
    if not re.fullmatch(r"[a-z0-9_$]+", name):
        yield from (token.start for token in tokens(text) if token.kind in ("word", "name") and token.text == name)
        return
    firsts = "".join(
        char for char in (name[0], *{name[0].upper()} - {name[0]}, "\N{KELVIN SIGN}") if char.lower() == name[0]
    )
    # That no letter stands before it is asked behind its first character, so that each alternative begins plainly.
    signs = (rf"{re.escape(first)}(?<![A-Za-z_$].)(?i:{re.escape(name[1:])})(?![0-9A-Za-z_$])" for first in firsts)
    pattern = landmark_pattern(" | ".join(signs), re.escape(firsts))
    read_to = 0
    for found in landmarks(text, pattern, also="`"):
        start, end = found.span()
        if text[start] == "`":
            if found[0][1:-1].strip(JAVA_BLANKS).lower() == name:
                yield start
        elif start >= read_to:
            # Other letters than those of ASCII may make it a part of a longer name.
            position = start
            while position > read_to and is_identifier_part(text[position - 1]):
                position -= 1
            while (token := token_at(text, position)).end <= start:
                position = token.end
            if token.text == name or (token.start < start and text[token.start].isdigit()):
                yield start
            read_to = max(end, token.end)


def begin_of_sql(text: str) -> int:
    """Where the blanks, comments and hints at the beginning end.

    :param text: SQL.
    :raises ScriptSyntaxError: see :func:`token_at`.
    """
    token = token_at(text, 0)
    while token.kind in ("comment", "hint"):
        token = token_at(text, token.end)
    return token.start


# The first alternative takes a pair with nothing inside but plain text and strings: a row of VALUES.
_PARENTHESES = landmark_pattern(
    r"""\([^()'"`/*\-]*(?:'[^'\\]*'[^()'"`/*\-]*){0,100}\) | \( | \)""",
    "()",
)


class Reader:
    """A statement read from left to right, as far as is asked for. Nothing of it is kept.

    Comments and hints are passed over: those in brackets (``[SHUFFLE]``), too, for which alone Impala's SQL has
    brackets, and STRAIGHT_JOIN, which is a hint without any sign (``plan_hints`` of ``sql-parser.cup``) and no name.

    :param sql: one statement.
    :param here: an earlier reader's next token, to go on there; None: at the beginning.
    :ivar sql: as given.
    :ivar here: the next token.
    :raises ScriptSyntaxError: see :func:`token_at`.
    """

    def __init__(self, sql: str, here: Token | None = None) -> None:
        self.sql = sql
        self.here = here or token_at(sql, 0)
        self._pass_over()

    def next(self) -> Token:
        """The next token, which is passed."""
        token = self.here
        self.here = token_at(self.sql, token.end)
        self._pass_over()
        return token

    def _pass_over(self) -> None:
        in_brackets = False
        while True:
            token = self.here
            if token.kind == "end":
                return
            if token.kind == "sign" and token.text in "[]":
                in_brackets = token.text == "["
            elif not (
                in_brackets
                or token.kind in ("comment", "hint")
                or (token.kind == "word" and token.text == "straight_join")
            ):
                return
            self.here = token_at(self.sql, token.end)

    def take(self, *words: str) -> str | None:
        """Pass the next token if it is one of these.

        :param words: words in lower case, or signs.
        :returns: the one it is; None: it is none of them.
        """
        token = self.here
        if token.kind not in ("word", "sign") or token.text not in words:
            return None
        self.next()
        return token.text

    def take_all(self, *words: str) -> bool:
        """Pass these words one after the other, all or none.

        :param words: in lower case.
        :returns: whether they are there.
        """
        start = self.here
        if all(self.take(word) for word in words):
            return True
        self.here = start
        return False

    def path(self) -> tuple[str, ...]:
        """A name of parts with dots between them; empty if none is here, or if it is not understood."""
        parts: list[str] = []
        while self.here.kind in ("word", "name"):
            parts.append(self.next().text)
            if not self.take("."):
                break
        # A character that this lexer does not know may be a letter to the server's: then the name goes on. A number
        # there begins with a dot, and the whole is none that the server reads.
        return () if self.here.kind in ("unexpected", "number") else tuple(parts)

    def parentheses(self) -> bool:
        """Pass what stands in parentheses here. False: none begin here, or they do not end."""
        if self.here[:2] != ("sign", "("):
            return False
        depth = 0
        for found in landmarks(self.sql, _PARENTHESES, self.here.start):
            depth += (found[0] == "(") - (found[0] == ")")
            if depth == 0:
                self.here = token_at(self.sql, found.end())
                self._pass_over()
                return True
        self.here = token_at(self.sql, len(self.sql))
        return False

    def skip_to(self, *words: str) -> str | None:
        """Go on to the first of these words outside of parentheses, and stop before it.

        :param words: in lower case.
        :returns: the one it is; None: the end is reached, or a character that is none of the lexer's.
        """
        while self.here.kind not in ("end", "unexpected"):
            if self.here.kind == "word" and self.here.text in words:
                return self.here.text
            if not self.parentheses():
                self.next()
        return None
