"""What impala-shell does with a statement before it sends it, and the commands it never sends.

Source of every rule: ``shell/impala_shell/impala_shell.py``, whose function is named at each. In a script file
its commands end with ``;`` like SQL (``parse_query_text``), and variables are replaced statement by statement
after the cut, before anything else is looked at (``onecmd``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from airflow_provider_impala_lb.impala.sql.lexer import ScriptSyntaxError

# ``\${var:x}`` is left as it is, backslash included (``replace_variables``). Other ``${...}``, which impala-shell
# refuses, may be plain SQL text here. No ``{`` or ``$`` in a name: the search stays linear in ``${var:${var:...``.
_VARIABLE = re.compile(r"(?<!\\)\$\{(?:hive)?var:([^{}$]*)\}", re.IGNORECASE)
_LEAD = re.compile(r"(?:\s+|--[^\r\n]*|/\*(?s:.)*?\*/){0,1000}")
_COMMAND = re.compile(r"[a-z0-9_]+|[!@?:]", re.IGNORECASE)
_VARIABLE_NAME = re.compile(r"(?:hive)?var:", re.IGNORECASE)
# A value or a name in one piece, without quotes, and perhaps a comment.
_PIECE = re.compile(r"([^\s'\"\\`]*?)((?:\s*(?:--|/\*).*)?)", re.DOTALL)
_WORD = re.compile(r"\w+")
# What ``set_stmt`` of ``sql-parser.cup`` takes without quotes: one word or a number.
_PLAIN_VALUE = re.compile(r"\w+|\d+\.\d+")

# ``VALID_SHELL_OPTIONS``: how impala-shell shows results. The server knows none of them.
_DISPLAY_OPTIONS = {
    "LIVE_PROGRESS",
    "LIVE_SUMMARY",
    "WRITE_DELIMITED",
    "DELIMITER",
    "VERBOSE",
    "VERTICAL",
    "PROFILE_OUTPUT",
    "PROFILE_FORMAT",
}

_LIST_FILES = "list the .sql files one after another where this script is named, or include them with Jinja"
_PROFILE = "the task log has the query id and a link to its page on the coordinator, with profile and summary"
_REMOVE = "remove it, it has nothing to show here"
_NO_HISTORY = "write the statement out again"
_INSTEAD = {
    "source": _LIST_FILES,
    "src": _LIST_FILES,
    "shell": "run the command in a task of its own",
    "!": "run the command in a task of its own",
    "connect": "remove it: the balancer picks the coordinator for the whole script",
    "profile": _PROFILE,
    "summary": _PROFILE,
    "history": _REMOVE,
    "help": _REMOVE,
    "?": _REMOVE,
    "tip": _REMOVE,
    "version": "remove it, or send 'select version()'",
    "rerun": _NO_HISTORY,
    "@": _NO_HISTORY,
}


def _lead_end(text: str) -> int:
    """Where the blanks and comments at the beginning end (``strip_leading_comment``)."""
    position = 0
    while (found := _LEAD.match(text, position)) and found.end() > position:
        position = found.end()
    return position


def _word(body: str) -> str:
    found = _COMMAND.match(body)
    return found[0].lower() if found else ""


class Shell:
    """The part of impala-shell a script relies on: its variables, and what it sends for each statement.

    :param variables: as by its ``--var``; names without regard to case.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {name.upper(): value for name, value in variables.items()}
        self._quit: ScriptSyntaxError | None = None  # what to say if anything follows

    def to_send(self, lead: str, body: str, at: int) -> str | None:
        """What to send for one statement.

        :param lead: the comments before the SQL, with the blanks after them.
        :param body: the SQL itself.
        :param at: the offset in the script where ``body`` begins.
        :returns: None or "": nothing, it is done with here.
        :raises ScriptSyntaxError: an unknown variable, or a command that only impala-shell can carry out.
        """
        if self._quit is not None:
            raise self._quit
        if _word(body) not in ("set", "unset"):  # their comments go before variables are replaced (``sanitise_input``)
            lead = self._replace(lead, at - len(lead))
        if "${" in body:
            # A value may bring comments of its own, or be all there was.
            text = lead + self._replace(body, at)
            first = _lead_end(text)
            lead, body = text[:first], text[first:]
        command = _word(body)
        arguments = body[len(command) :].strip()
        if command == "set":
            body = self._set(body, arguments, at)
        elif command == "unset":
            body = self._unset(body, arguments, at)
        elif command == "desc":
            body = f"describe{body[4:]}"  # no statement of the server begins with DESC (``do_desc``)
        elif command == ":":
            # The grammar (``admin_fn_stmt``) has ``:shutdown()`` and nothing else.
            raise ScriptSyntaxError("':shutdown' stops a coordinator: run it by impala-shell, on purpose", at)
        elif command in ("quit", "exit"):
            # At its end it asks for nothing. impala-shell runs what follows all the same (``execute_query_list``),
            # which hardly anybody means.
            self._quit = ScriptSyntaxError(
                f"'{command}' is not the last command: remove it, a script ends where its text ends", at
            )
            return None
        elif command in _INSTEAD:
            raise ScriptSyntaxError(f"'{command}' is a command of impala-shell, not SQL: {_INSTEAD[command]}", at)
        return lead + body if body else None

    def _replace(self, text: str, at: int) -> str:
        """Put in the values as they are, in strings and comments too; a value is not looked at again."""

        def value(found: re.Match[str]) -> str:
            name = found[1]
            if name.upper() in self._variables:
                return self._variables[name.upper()]
            known = ", ".join(sorted(self._variables)) or "none"
            raise ScriptSyntaxError(f"unknown variable {name!r} (known: {known})", at + found.start())

        return _VARIABLE.sub(value, text)

    def _set(self, body: str, arguments: str, at: int) -> str:
        """``do_set``. Variables and display options stay here, query options go to the server."""
        option, is_set, value = (part.strip() for part in arguments.partition("="))
        if prefix := _VARIABLE_NAME.match(option):
            name = option[prefix.end() :].upper()
            if not (name and is_set):
                raise ScriptSyntaxError("a variable is set by SET VAR:name=value", at)
            self._variables[name] = value
            return ""
        if option.upper() == "OUTPUT_FILE":
            raise ScriptSyntaxError(
                "OUTPUT_FILE is an option of impala-shell: take the rows from the task's result", at
            )
        if option.upper() in _DISPLAY_OPTIONS:
            return ""
        # impala-shell sends options beside the statement, so scripts have them in any spelling: 80%, root.etl,
        # zstd:3, nothing at all. Within a statement those must be strings.
        found = _PIECE.fullmatch(value)
        if found and is_set and _WORD.fullmatch(option) and not _PLAIN_VALUE.fullmatch(found[1]):
            return f'SET {option}="{found[1]}"{found[2]}'
        return body

    def _unset(self, body: str, arguments: str, at: int) -> str:
        """``do_unset``. The server has no UNSET of one option; the empty string stands for its default."""
        if prefix := _VARIABLE_NAME.match(arguments):
            self._variables.pop(arguments[prefix.end() :].strip().upper(), None)
            return ""
        found = _PIECE.fullmatch(arguments)
        if found is None or not _WORD.fullmatch(found[1]) or found[1].upper() == "ALL":
            return body
        if found[1].upper() in _DISPLAY_OPTIONS | {"OUTPUT_FILE"}:
            return ""
        return f'SET {found[1]}=""{found[2]}'
