"""Impala's patterns of moments (be/src/runtime/datetime-iso-sql-format-tokenizer.cc's older sibling) as DuckDB's."""

from __future__ import annotations

import re

_CODES = {
    "yyyy": "%Y",
    "yy": "%y",
    "MMM": "%b",
    "MM": "%m",
    "M": "%-m",
    "dd": "%d",
    "d": "%-d",
    "HH": "%H",
    "H": "%-H",
    "mm": "%M",
    "m": "%-M",
    "ss": "%S",
    "s": "%-S",
    "SSS": "%g",
    "SSSSSS": "%f",
}
_TOKEN = re.compile(r"([A-Za-z])\1*|[-/:. ]|.", re.DOTALL)


def strftime_pattern(pattern: str) -> str | None:
    """DuckDB's pattern; None for one that Impala refuses, or that means something here that DuckDB cannot say."""
    codes = []
    for match in _TOKEN.finditer(pattern):
        letters = match.group()
        if letters[0].isalpha():
            # A T between a day and a time stands for itself.
            code = "T" if letters == "T" else _CODES.get(letters)
        else:
            code = letters if letters in "-/:. " else None
        if code is None:
            return None
        codes.append(code)
    return "".join(codes) if any(code.startswith("%") for code in codes) else None
