"""What is wrong with a configuration, as its author wrote it: key, value, and what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, get_args

import msgspec

_SECRET = re.compile(r"password|secret|token|store|mirror")


def explained(
    message: str,
    raw: Any,
    sections: Mapping[str, Any],
    entry: type[msgspec.Struct],
    choices: Mapping[str, Any],
) -> str:
    """msgspec's text in the author's words. Values of keys that may hold a secret are not shown.

    :param sections: the struct of each section, by its key ("": at the top); ``entry`` that of an entry of a list.
    :param choices: the literal type of each key that has one.
    """
    problem, _, place = message.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.search(r"unknown field `(.+?)`", problem)
    if unknown:
        key = unknown[1]
        allowed = list(sections.get(path, entry).__struct_fields__)
        near = difflib.get_close_matches(key, allowed, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{path + '.' if path else ''}{key}: unknown key{hint}; allowed: {', '.join(allowed)}"
    missing = re.search(r"missing required field `(.+?)`", problem)
    if missing:
        return f"{path + '.' if path else ''}{missing[1]}: is missing"
    shown = "(value not shown)" if _SECRET.search(path) else repr(_at(raw, path))
    if path in choices:
        return f"{path}: {shown} is not one of {', '.join(get_args(choices[path]))}"
    return f"{path or 'config'}: {problem[0].lower()}{problem[1:]} ({shown})"


def _at(raw: Any, path: str) -> Any:
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            raw = raw[int(index)] if index else raw[key]
        except (KeyError, IndexError, TypeError):
            return "?"
    return raw
