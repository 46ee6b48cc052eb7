"""One statement's text: comments and hints taken out, a second statement refused. The rules are Impala's scanner's."""

from __future__ import annotations

import re

from airflow_provider_impala_lb.sandbox.common.errors import syntax_error

_HINTS = (
    r"shuffle|noshuffle|broadcast|clustered|noclustered|straight_join|schedule_cache_local|schedule_disk_local"
    r"|schedule_remote|random_replica"
)
_TOKEN = re.compile(
    rf"""(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`)
      | (?P<comment>/\*.*?\*/|--[^\r\n]*)
      | (?P<hint>\[\s*(?:{_HINTS})(?:\s*,\s*(?:{_HINTS}))*\s*\])
      | (?P<end>;)
      | (?P<space>\s+)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def statement(sql: str) -> str:
    """The statement without comments and hints (each leaves a blank) and without its one closing ``;``.

    :param sql: as received.
    :raises Refused: a quote that never ends, a second statement (or a second ``;``) after the first, or no statement.
    """
    parts: list[str] = []
    ended = None
    for token in _TOKEN.finditer(sql):
        kind, text = token.lastgroup, token.group()
        if kind in ("comment", "hint"):
            # The newlines stay, so that an error names the line the author sees.
            parts.append(" " + "\n" * text.count("\n"))
            continue
        if ended is not None and kind != "space":
            name = {"end": ";", "word": text.upper()}.get(kind or "", "Unexpected character")
            raise syntax_error(sql, token.start(), name, "EOF")
        if kind == "end":
            ended = token.start()
        elif kind == "other" and text in "'\"`":
            raise syntax_error(sql, token.start(), "Unmatched string literal")
        elif kind == "word" and text.lower() == "straight_join":
            parts.append(" ")
        else:
            parts.append(text)
    text = "".join(parts)
    if not text.strip():
        raise syntax_error(sql, len(sql), "EOF", "a statement")
    return text.rstrip()


def hint_warnings(sql: str) -> list[str]:
    """Impala's warnings of hints it does not know, which it otherwise ignores (TableRef, InsertStmt, SelectList).

    :param sql: as received.
    """
    found = []
    word = ""
    for token in _TOKEN.finditer(sql):
        if token.lastgroup == "word":
            word = token.group().lower() if token.group().lower() in ("join", "select", "insert") else word
        hint = re.match(r"(?:/\*|--) *\+([^*]*)", token.group()) if token.lastgroup == "comment" else None
        for name in re.split(r"[\s,]+", hint[1].strip()) if hint else ():
            if name and not re.fullmatch(_HINTS, name.split("(")[0], re.IGNORECASE):
                kind = {"join": "JOIN", "select": "PLAN"}.get(word, "INSERT")
                found.append(f"{kind} hint not recognized: {name}")
    return found


def first_word(text: str) -> str:
    """The first word, in capitals; a sign such as ``(`` counts as a word.

    :param text: a statement, which is not empty.
    """
    word = re.search(r"\w+|[^\w\s]", text)
    assert word is not None, "an empty statement"
    return word.group().upper()
