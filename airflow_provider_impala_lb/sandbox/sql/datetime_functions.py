"""Impala's functions of DATE and TIMESTAMP for DuckDB: the macros, and what a unit or a pattern means.

The macros have the form that `sql/functions.py` describes. ``im_moment(x)`` is the TIMESTAMP of a DATE, a TIMESTAMP or
a text.
"""

from __future__ import annotations

import re

from airflow_provider_impala_lb.sandbox.common.errors import NOT_HERE

_UNITS = {
    "years": ("to_years({})", "INTEGER"),
    "months": ("to_months({})", "INTEGER"),
    "weeks": ("to_weeks({})", "INTEGER"),
    "days": ("to_days({})", "INTEGER"),
    "hours": ("to_hours({})", "BIGINT"),
    "minutes": ("to_minutes({})", "BIGINT"),
    "seconds": ("to_seconds({})", "BIGINT"),
    "milliseconds": ("to_microseconds({} * 1000)", "BIGINT"),
    "microseconds": ("to_microseconds({})", "BIGINT"),
}
# What Impala reads as a TIMESTAMP (be/src/runtime/datetime-simple-date-format-parser.cc), to DuckDB's microseconds.
_DAY_TEXT = r"\d{4}-\d{1,2}-\d{1,2}"
_MOMENT_TEXT = (
    rf"^\s*({_DAY_TEXT}(?:(?: +|T)\d{{1,2}}:\d{{1,2}}:\d{{1,2}}(?:\.\d{{1,6}})?)?)\d*(?:Z|[+-]\d\d(?::?\d\d)?)?\s*$"
)
_DATE_TEXT = rf"^\s*({_DAY_TEXT})(?:(?: +|T)\d{{1,2}}:\d{{1,2}}:\d{{1,2}}(?:\.\d{{1,9}})?)?\s*$"


def _of_moment(body: str, text: str = "im_moment(t)") -> list[tuple[str, str]]:
    """The forms of a function of a TIMESTAMP ``{t}``: of a DATE and of a text, too.

    A form for each type, and no macro without types: DuckDB checks a macro as it is created, and cannot choose between
    the forms of another one for a parameter that has no type yet.
    """
    return [
        (f"t {kind}", body.format(t=value))
        for kind, value in (("TIMESTAMP", "t"), ("VARCHAR", text), ("DATE", "CAST(t AS TIMESTAMP)"))
    ]


def _of_days(body: str) -> list[tuple[str, str]]:
    """The forms of a function of two days ``{a}`` and ``{b}``, whatever each of them is written as."""
    days = (("DATE", "{}"), ("TIMESTAMP", "CAST({} AS DATE)"), ("VARCHAR", "CAST(im_moment({}) AS DATE)"))
    return [
        (f"a {one}, b {other}", body.format(a=left.format("a"), b=right.format("b")))
        for one, left in days
        for other, right in days
    ]


#: name -> one (parameters, body) for each form
DATETIME_MACROS: dict[str, list[tuple[str, str]]] = {
    "range": [
        ("t", "CASE WHEN t BETWEEN TIMESTAMP '1400-01-01' AND TIMESTAMP '9999-12-31 23:59:59.999999' THEN t END")
    ],
    "day_range": [("t", "CASE WHEN t BETWEEN DATE '0001-01-01' AND DATE '9999-12-31' THEN t END")],
    "moment": [
        ("t DATE", "CAST(t AS TIMESTAMP)"),
        ("t TIMESTAMP", "t"),
        (
            "t VARCHAR",
            f"im_range(TRY_CAST(nullif(regexp_extract(t, '{_MOMENT_TEXT}', 1), '') AS TIMESTAMP) + "
            r"CASE WHEN regexp_matches(t, '\.\d{6}\d*[1-9]') THEN CAST(error('" + NOT_HERE + ": nanoseconds (it keeps "
            "microseconds)') AS INTERVAL) ELSE to_days(0) END)",
        ),
    ],
    "number_moment": [
        ("t BIGINT", "im_range(make_timestamp(CASE WHEN abs(t) < 1000000000000 THEN t * 1000000 END))"),
        (
            "t DOUBLE",
            "im_range(make_timestamp(CASE WHEN abs(t) < 1e12 THEN CAST(round(t * 1000000) AS BIGINT) END))",
        ),
        ("t DATE", "im_moment(t)"),
        ("t TIMESTAMP", "t"),
        ("t VARCHAR", "im_moment(t)"),
    ],
    "date": [
        ("t DATE", "t"),
        ("t TIMESTAMP", "CAST(t AS DATE)"),
        (
            "t VARCHAR",
            "CASE WHEN t IS NULL THEN NULL ELSE im_day_range(coalesce("
            f"TRY_CAST(nullif(regexp_extract(t, '{_DATE_TEXT}', 1), '') AS DATE), "
            "CAST(error('UDF ERROR: String to Date parse failed. Invalid string val: \"' || t || '\"') AS DATE))) END",
        ),
    ],
    "read": [
        (
            "t, s",
            r"CASE WHEN t IS NULL AND regexp_matches(s, '\d(Z|[+-]\d\d:?\d\d)\s*$') AND s IS NOT NULL "
            f"THEN CAST(error('{NOT_HERE}: time zones in a text') AS TIMESTAMP) ELSE im_range(t) END",
        )
    ],
    # hour() and others read a text that is a time without a day, too.
    "clock": [
        (
            "t VARCHAR",
            r"coalesce(im_moment(t), TRY_CAST('1970-01-01 ' || nullif(regexp_extract(t, "
            r"'^\s*(\d\d:\d\d:\d\d(?:\.\d{1,6})?)\d*\s*$', 1), '') AS TIMESTAMP))",
        )
    ],
    "from_unixtime": [("s BIGINT", "strftime(im_number_moment(s), '%Y-%m-%d %H:%M:%S')")],
    "unix_timestamp": _of_moment("CAST(floor(epoch({t})) AS BIGINT)"),
    "to_timestamp": [("t BIGINT", "im_number_moment(t)")],
    "to_date": _of_moment("strftime({t}, '%Y-%m-%d')"),
    "dayofweek": _of_moment("CAST(dayofweek({t}) + 1 AS INTEGER)"),
    "dayname": _of_moment("dayname({t})"),
    "monthname": _of_moment("monthname({t})"),
    "datediff": _of_days("CAST({a} - {b} AS INTEGER)"),
    "months_between": _of_days("im_months_between_days({a}, {b})"),
    "months_between_days": [
        (
            "a, b",
            "CAST((year(a) - year(b)) * 12 + month(a) - month(b) + CASE WHEN last_day(a) = a AND last_day(b) = b "
            "THEN 0 ELSE (day(a) - day(b)) / 31.0 END AS DOUBLE)",
        )
    ],
    "last_day": [
        ("t DATE", "last_day(t)"),
        ("t TIMESTAMP", "CAST(last_day(t) AS TIMESTAMP)"),
        ("t VARCHAR", "CAST(last_day(im_moment(t)) AS TIMESTAMP)"),
    ],
    "next_day": [
        ("t DATE, d VARCHAR", "im_day_range(im_following(t, d))"),
        ("t TIMESTAMP, d VARCHAR", "im_range(im_following(CAST(t AS DATE), d) + (t - date_trunc('day', t)))"),
        ("t VARCHAR, d VARCHAR", "im_next_day_of(im_moment(t), d)"),
    ],
    "next_day_of": [("t, d", "im_range(im_following(CAST(t AS DATE), d) + (t - date_trunc('day', t)))")],
    "following": [
        (
            "t, d",
            "t + CAST(CASE lower(d) WHEN 'sunday' THEN (6 - dayofweek(t)) % 7 + 1 "
            "WHEN 'sun' THEN (6 - dayofweek(t)) % 7 + 1 "
            + " ".join(
                f"WHEN '{name}' THEN ({number + 6} - dayofweek(t)) % 7 + 1"
                for number, long in enumerate(
                    ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday"), start=1
                )
                for name in (long, long[:3])
            )
            + " ELSE CAST(error('UDF ERROR: Invalid weekday: ' || coalesce(d, 'NULL')) AS BIGINT) END AS INTEGER)",
        )
    ],
}

for _unit, (_interval, _kind) in _UNITS.items():
    _n = _interval.format(f"CAST(n AS {_kind})")
    for _word, _sign in (("add", "+"), ("sub", "-")):
        _forms = [
            ("t TIMESTAMP, n BIGINT", f"im_range(t {_sign} {_n})"),
            ("t VARCHAR, n BIGINT", f"im_range(im_moment(t) {_sign} {_n})"),
        ]
        if _unit in ("years", "months", "weeks", "days"):
            _forms.append(("t DATE, n BIGINT", f"im_day_range(CAST(t {_sign} {_n} AS DATE))"))
        DATETIME_MACROS[f"{_unit}_{_word}"] = _forms

# months_add() keeps the last day of a month, INTERVAL n MONTHS does not.
for _word, _sign in (("add", "+"), ("sub", "-")):
    DATETIME_MACROS[f"months_{_word}_interval"] = DATETIME_MACROS[f"months_{_word}"]
    _months = f"to_months(CAST({_sign if _sign == '-' else ''}n AS INTEGER))"
    _shift = "CASE WHEN day(t + to_days(1)) = 1 THEN {last} ELSE {moment} END"
    _moved = _shift.format(
        last=f"CAST(last_day(t + {_months}) AS TIMESTAMP) + (t - date_trunc('day', t))", moment=f"t + {_months}"
    )
    DATETIME_MACROS[f"moved_months_{_word}"] = [("t, n", _moved)]
    DATETIME_MACROS[f"months_{_word}"] = [
        (
            "t DATE, n BIGINT",
            f"im_day_range({_shift.format(last=f'last_day(t + {_months})', moment=f'CAST(t + {_months} AS DATE)')})",
        ),
        ("t TIMESTAMP, n BIGINT", f"im_range(im_moved_months_{_word}(t, n))"),
        ("t VARCHAR, n BIGINT", f"im_range(im_moved_months_{_word}(im_moment(t), n))"),
    ]

for _part in ("year", "quarter", "month", "week", "day", "hour", "minute", "second"):
    _text = "im_clock(t)" if _part in ("hour", "minute", "second") else "im_moment(t)"
    DATETIME_MACROS[_part] = _of_moment(f"CAST(date_part('{_part}', {{t}}) AS INTEGER)", _text)
    DATETIME_MACROS[f"part_{_part}"] = _of_moment(f"CAST(date_part('{_part}', {{t}}) AS BIGINT)")
del DATETIME_MACROS["part_week"]
DATETIME_MACROS["part_millisecond"] = _of_moment("CAST(date_part('millisecond', {t}) AS BIGINT)")
DATETIME_MACROS["part_epoch"] = _of_moment("CAST(floor(epoch({t})) AS BIGINT)")
DATETIME_MACROS["millisecond"] = _of_moment("CAST(date_part('millisecond', {t}) % 1000 AS INTEGER)", "im_clock(t)")
DATETIME_MACROS["dayofyear"] = _of_moment("CAST(date_part('doy', {t}) AS INTEGER)")


def _by_day(name: str, body: str) -> None:
    """A function whose result is a day: a DATE of a DATE, else a TIMESTAMP. ``body`` is of the DATE ``t``."""
    DATETIME_MACROS[f"day_{name}"] = [("t", body)]
    DATETIME_MACROS[name] = [
        ("t DATE", f"im_day_{name}(t)"),
        ("t TIMESTAMP", f"im_range(CAST(im_day_{name}(CAST(t AS DATE)) AS TIMESTAMP))"),
        ("t VARCHAR", f"im_range(CAST(im_day_{name}(CAST(im_moment(t) AS DATE)) AS TIMESTAMP))"),
    ]


#: the unit of trunc() and date_trunc() -> the macro's name
TRUNC = {
    **dict.fromkeys(("SYYYY", "YYYY", "YEAR", "SYEAR", "YYY", "YY", "Y"), "trunc_year"),
    "Q": "trunc_quarter",
    **dict.fromkeys(("MONTH", "MON", "MM", "RM"), "trunc_month"),
    **dict.fromkeys(("DDD", "DD", "J"), "trunc_day"),
    **dict.fromkeys(("DAY", "DY", "D"), "trunc_week"),
    "WW": "trunc_ww",
    "W": "trunc_w",
    **dict.fromkeys(("HH", "HH12", "HH24"), "trunc_hour"),
    "MI": "trunc_minute",
}
DATE_TRUNC = {
    name: f"trunc_{name.lower()}"
    for name in (
        "MILLENNIUM", "CENTURY", "DECADE", "YEAR", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND",
        "MILLISECONDS", "MICROSECONDS",
    )
}  # fmt: skip
for _unit in ("year", "quarter", "month", "week", "day"):
    _by_day(f"trunc_{_unit}", f"CAST(date_trunc('{_unit}', t) AS DATE)")
_by_day("trunc_w", "t - CAST((day(t) - 1) % 7 AS INTEGER)")
_by_day("trunc_ww", "t - CAST((dayofyear(t) - 1) % 7 AS INTEGER)")
_by_day("trunc_millennium", "make_date((year(t) - 1) // 1000 * 1000 + 1, 1, 1)")
_by_day("trunc_century", "make_date((year(t) - 1) // 100 * 100 + 1, 1, 1)")
_by_day("trunc_decade", "make_date(nullif(year(t) // 10 * 10, 0), 1, 1)")
for _unit in ("hour", "minute", "second", "milliseconds", "microseconds"):
    DATETIME_MACROS[f"trunc_{_unit}"] = _of_moment(f"date_trunc('{_unit}', {{t}})")


# Impala's patterns (be/src/runtime/datetime-simple-date-format-parser.cc), letters to DuckDB's codes.
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
    """DuckDB's pattern for one of Impala's.

    :param pattern: such as ``yyyy-MM-dd HH:mm:ss``.
    :returns: None: Impala refuses it, or it means something that DuckDB cannot say.
    """
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
