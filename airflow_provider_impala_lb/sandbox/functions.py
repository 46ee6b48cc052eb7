"""Impala's functions for DuckDB: macros named ``im_<name>``, typed where Impala's meaning depends on the type.

A function that is not in this table is refused, also if DuckDB has one of its name: names agree more often than
meanings do.
Parameters with a type make DuckDB choose the form by its arguments' types (a DATE stays a DATE), and refuse others.
The sources are ``common/function-registry/impala_functions.py`` and ``be/src/exprs``.
"""

from __future__ import annotations

import re

NOT_HERE = "the practice cluster does not have this"
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
_DECIMALS = (
    "typeof(a) || typeof(b) LIKE '%DECIMAL%' AND typeof(a) NOT IN ('DOUBLE', 'FLOAT') "
    "AND typeof(b) NOT IN ('DOUBLE', 'FLOAT')"
)
_SMALL, _CAPITAL = "'abcdefghijklmnopqrstuvwxyz'", "'ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
# What Impala reads as a TIMESTAMP (be/src/runtime/datetime-simple-date-format-parser.cc), to DuckDB's microseconds.
_DAY_TEXT = r"\d{4}-\d{1,2}-\d{1,2}"
_MOMENT_TEXT = (
    rf"^\s*({_DAY_TEXT}(?:(?: +|T)\d{{1,2}}:\d{{1,2}}:\d{{1,2}}(?:\.\d{{1,6}})?)?)\d*(?:Z|[+-]\d\d(?::?\d\d)?)?\s*$"
)
_DATE_TEXT = rf"^\s*({_DAY_TEXT})(?:(?: +|T)\d{{1,2}}:\d{{1,2}}:\d{{1,2}}(?:\.\d{{1,9}})?)?\s*$"
_WHOLE_TEXT = r"^\s*[+-]?\d+\s*$"


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
MACROS: dict[str, list[tuple[str, str]]] = {
    # -- what the other macros use, and the translation of operators and casts
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
    "other_string": [
        ("x BOOLEAN", "CASE x WHEN true THEN '1' WHEN false THEN '0' END"),
        ("x BIGINT", "CAST(x AS VARCHAR)"),
        (
            "x FLOAT",
            "CASE WHEN isnan(x) THEN 'nan' WHEN CAST(printf('%.6g', x) AS FLOAT) = x THEN printf('%.6g', x) "
            "ELSE printf('%.8g', x) END",
        ),
        (
            "x DOUBLE",
            "CASE WHEN isnan(x) THEN 'nan' WHEN CAST(printf('%.15g', x) AS DOUBLE) = x THEN printf('%.15g', x) "
            "ELSE printf('%.17g', x) END",
        ),
        ("x DATE", "strftime(x, '%Y-%m-%d')"),
        (
            "x TIMESTAMP",
            "CASE WHEN microsecond(x) % 1000000 = 0 THEN strftime(x, '%Y-%m-%d %H:%M:%S') "
            "ELSE strftime(x, '%Y-%m-%d %H:%M:%S.%f000') END",
        ),
        ("x VARCHAR", "x"),
        ("x BLOB", "decode(x)"),
    ],
    "text": [("s VARCHAR", "s")],
    "ascii_only": [
        (
            "s VARCHAR",
            "CASE WHEN strlen(s) > length(s) THEN error('" + NOT_HERE + ": functions that count bytes, on a text "
            "that is not ASCII; SET UTF8_MODE=true to count letters') ELSE s END",
        )
    ],
    "boolean": [
        ("x BOOLEAN", "x"),
        ("x BIGINT", "x <> 0"),
        ("x DOUBLE", "x <> 0"),
        ("x VARCHAR", "CASE lower(trim(x)) WHEN 'true' THEN true WHEN 'false' THEN false END"),
    ],
    "other_double": [
        ("x BOOLEAN", "CAST(x AS DOUBLE)"),
        ("x BIGINT", "CAST(x AS DOUBLE)"),
        ("x DOUBLE", "x"),
        ("x TIMESTAMP", "epoch(x)"),
        ("x VARCHAR", "TRY_CAST(x AS DOUBLE)"),
    ],
    # p and q: how many digits Impala gives a whole number that is written out, -1 for everything else.
    "divide": [
        (
            "a, b, p, q",
            f"CASE WHEN {_DECIMALS} THEN im_quotient_of(CAST(a AS DOUBLE), CAST(b AS DOUBLE), "
            "im_digits(typeof(a), p), im_digits(typeof(b), q), im_places(typeof(a)), im_places(typeof(b))) "
            "ELSE CAST(a AS DOUBLE) / CAST(b AS DOUBLE) END",
        )
    ],
    "digits": [
        (
            "t, p",
            "CASE WHEN t LIKE 'DECIMAL%' THEN CAST(regexp_extract(t, '(\\d+),', 1) AS INTEGER) WHEN p > 0 THEN p "
            "WHEN t = 'TINYINT' THEN 3 WHEN t = 'SMALLINT' THEN 5 WHEN t = 'INTEGER' THEN 10 ELSE 19 END",
        )
    ],
    "places": [("t", "CASE WHEN t LIKE 'DECIMAL%' THEN CAST(regexp_extract(t, ',(\\d+)', 1) AS INTEGER) ELSE 0 END")],
    # fe: TypesUtil.getDecimalArithmeticResultType. As a DOUBLE, which is exact enough up to 15 digits.
    "quotient_of": [
        (
            "x, y, p, q, s, z",
            "CASE WHEN y = 0 THEN CAST(error('UDF ERROR: Cannot divide decimal by zero') AS DOUBLE) "
            "WHEN abs(x) * power(10, s) > 9e15 OR abs(y) * power(10, z) > 9e15 "
            f"THEN CAST(error('{NOT_HERE}: division of DECIMAL numbers of more than 15 digits') AS DOUBLE) "
            "ELSE round(x / y, im_quotient_places(p - s + z, greatest(6, s + q + 1))) END",
        )
    ],
    "quotient_places": [("w, s", "CASE WHEN w + s > 38 THEN greatest(38 - w, least(s, 6)) ELSE s END")],
    "whole_divide": [("a, b", "CAST(a AS BIGINT) // CASE WHEN b <> 0 THEN CAST(b AS BIGINT) END")],
    "modulo": [
        (
            "a, b",
            f"CASE WHEN {_DECIMALS} AND typeof(a % b) = 'DOUBLE' "
            f"THEN CAST(error('{NOT_HERE}: the remainder of DECIMAL numbers as long as these') AS TINYINT) "
            f"ELSE a % CASE WHEN b <> 0 THEN b WHEN {_DECIMALS} AND b = 0 "
            "THEN CAST(error('UDF ERROR: Cannot divide decimal by zero') AS TINYINT) END END",
        )
    ],
    "wrapped_sum": [
        (
            "x",
            "CASE WHEN typeof(x) = 'HUGEINT' AND x NOT BETWEEN -9223372036854775808 AND 9223372036854775807 "
            "THEN ((CAST(x AS HUGEINT) % 18446744073709551616) + 27670116110564327424) % 18446744073709551616 "
            "- 9223372036854775808 ELSE x END",
        )
    ],
    # -- conditions
    "nvl": [("a, b", "coalesce(a, b)")],
    "nvl2": [("a, b, c", "CASE WHEN a IS NOT NULL THEN b ELSE c END")],
    "nullif": [("a, b", "nullif(a, b)")],
    "zeroifnull": [("a", "coalesce(a, 0)")],
    "nullifzero": [("a", "nullif(a, 0)")],
    "isfalse": [("a BOOLEAN", "coalesce(a = false, false)")],
    "istrue": [("a BOOLEAN", "coalesce(a = true, false)")],
    "isnottrue": [("a BOOLEAN", "coalesce(a <> true, true)")],
    "isnotfalse": [("a BOOLEAN", "coalesce(a <> false, true)")],
    "nullvalue": [("a", "a IS NULL")],
    "nonnullvalue": [("a", "a IS NOT NULL")],
    "typeof": [
        (
            "x",
            "CASE typeof(x) WHEN 'INTEGER' THEN 'INT' WHEN 'VARCHAR' THEN 'STRING' WHEN 'HUGEINT' THEN 'BIGINT' "
            "WHEN '\"NULL\"' THEN 'BOOLEAN' WHEN 'BLOB' THEN 'BINARY' "
            "WHEN 'TIMESTAMP WITH TIME ZONE' THEN 'TIMESTAMP' ELSE typeof(x) END",
        )
    ],
    # -- moments
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
    # -- texts
    "regexp_replace": [("s VARCHAR, p VARCHAR, r VARCHAR", "regexp_replace(s, '(?-s)' || p, r, 'g')")],
    "regexp_like": [("s VARCHAR, p VARCHAR", "regexp_matches(s, '(?-s)' || p)")],
    "instr": [
        (
            "s VARCHAR, x VARCHAR",
            "CASE WHEN x = '' THEN CASE WHEN s IS NOT NULL THEN 0 END ELSE "
            "CAST(instr(im_ascii_only(s), x) AS INTEGER) END",
        ),
        (
            "s VARCHAR, x VARCHAR, p BIGINT",
            "CASE WHEN p < 1 OR x = '' OR strlen(s) > length(s) THEN CAST(error('" + NOT_HERE + ": a search from a "
            "place before the first letter, for an empty text, or in one that is not ASCII') AS INTEGER) "
            "WHEN instr(substring(s, p), x) = 0 THEN 0 ELSE CAST(instr(substring(s, p), x) + p - 1 AS INTEGER) END",
        ),
    ],
    "locate": [
        ("x VARCHAR, s VARCHAR", "im_instr(s, x)"),
        ("x VARCHAR, s VARCHAR, p BIGINT", "im_instr(s, x, p)"),
    ],
    "substr": [
        ("s VARCHAR, p BIGINT", "im_part(im_ascii_only(s), p, 2147483647)"),
        ("s VARCHAR, p BIGINT, n BIGINT", "im_part(im_ascii_only(s), p, n)"),
    ],
    "part": [
        (
            "s, p, n",
            "CASE WHEN s IS NULL OR p IS NULL OR n IS NULL THEN NULL WHEN p = 0 OR n <= 0 OR -p > length(s) THEN '' "
            "ELSE substring(s, p, n) END",
        )
    ],
    "strleft": [("s VARCHAR, n BIGINT", "CASE WHEN n < 0 THEN '' ELSE left(im_ascii_only(s), n) END")],
    "strright": [("s VARCHAR, n BIGINT", "CASE WHEN n < 0 THEN '' ELSE right(im_ascii_only(s), n) END")],
    "lpad": [
        (
            "s VARCHAR, n BIGINT, p VARCHAR",
            "CASE WHEN n < 0 THEN NULL ELSE lpad(im_ascii_only(s), CAST(n AS INTEGER), p) END",
        )
    ],
    "rpad": [
        (
            "s VARCHAR, n BIGINT, p VARCHAR",
            "CASE WHEN n < 0 THEN NULL ELSE rpad(im_ascii_only(s), CAST(n AS INTEGER), p) END",
        )
    ],
    "initcap": [
        (
            "s VARCHAR",
            "array_to_string(list_transform(regexp_extract_all(im_ascii_only(s), '[\\s\\v]+|[^\\s\\v]+'), "
            "lambda w: upper(w[1]) || lower(w[2:])), '')",
        )
    ],
    "space": [("n BIGINT", "CASE WHEN n <= 0 THEN '' ELSE repeat(' ', n) END")],
    "repeat": [("s VARCHAR, n BIGINT", "repeat(s, n)")],
    "reverse": [("s VARCHAR", "reverse(im_ascii_only(s))")],
    "replace": [("s VARCHAR, x VARCHAR, y VARCHAR", "CASE WHEN x = '' THEN s ELSE replace(s, x, y) END")],
    "translate": [("s VARCHAR, x VARCHAR, y VARCHAR", "translate(im_ascii_only(s), x, y)")],
    "btrim": [("s VARCHAR", "trim(s)"), ("s VARCHAR, c VARCHAR", "trim(im_ascii_only(s), coalesce(c, ''))")],
    "trim": [("s VARCHAR", "trim(s)")],
    "ltrim": [("s VARCHAR", "ltrim(s)"), ("s VARCHAR, c VARCHAR", "ltrim(im_ascii_only(s), coalesce(c, ''))")],
    "rtrim": [("s VARCHAR", "rtrim(s)"), ("s VARCHAR, c VARCHAR", "rtrim(im_ascii_only(s), coalesce(c, ''))")],
    "length": [("s VARCHAR", "CAST(strlen(s) AS INTEGER)")],
    "utf8_length": [("s VARCHAR", "CAST(length(s) AS INTEGER)")],
    "bytes": [("s VARCHAR", "CAST(strlen(s) AS INTEGER)")],
    "ascii": [("s VARCHAR", "CAST(ascii(im_ascii_only(s)) AS INTEGER)")],
    "chr": [
        (
            "n BIGINT",
            "CASE WHEN n BETWEEN 1 AND 127 THEN chr(CAST(n AS INTEGER)) WHEN n NOT BETWEEN 0 AND 255 "
            "THEN '' WHEN n IS NOT NULL THEN error('" + NOT_HERE + ": a byte that is no letter') END",
        )
    ],
    "upper": [("s VARCHAR", f"translate(s, {_SMALL}, {_CAPITAL})")],
    "lower": [("s VARCHAR", f"translate(s, {_CAPITAL}, {_SMALL})")],
    "split_part": [
        (
            "s VARCHAR, d VARCHAR, n BIGINT",
            "CASE WHEN n = 0 THEN error('UDF ERROR: Invalid field position: 0') WHEN d = '' THEN s "
            "ELSE split_part(s, d, n) END",
        )
    ],
    "hex": [("n BIGINT", "hex(n)"), ("s VARCHAR", "hex(s)")],
    "uuid": [("", "CAST(gen_random_uuid() AS VARCHAR)")],
    # -- numbers
    "abs": [("a", "abs(a)")],
    "ceil": [("a", "ceil(a)")],
    "floor": [("a", "floor(a)")],
    "round": [("a", "round(a)"), ("a, b", "round(a, b)")],
    "truncate": [("a", "trunc(a)"), ("a, d", "trunc(a * power(10, d)) / power(10, d)")],
    "pmod": [("a, b", "((a % b) + b) % b")],
    "fmod": [
        ("a DOUBLE, b DOUBLE", "CASE WHEN b <> 0 THEN a - b * trunc(a / b) END"),
    ],
    "quotient": [("a, b", "im_whole_divide(trunc(a), trunc(b))")],
    "positive": [("a", "a")],
    "negative": [("a", "-a")],
    "sign": [("a", "CAST(sign(a) AS DOUBLE)")],
    "e": [("", "exp(1.0::DOUBLE)")],
    "pi": [("", "pi()")],
    "rand": [("", "random()"), ("s", "random()")],
    "power": [("a DOUBLE, b DOUBLE", "power(a, b)")],
    "sqrt": [("a DOUBLE", "CASE WHEN a < 0 THEN 'nan'::DOUBLE ELSE sqrt(a) END")],
    "exp": [("a DOUBLE", "exp(a)")],
    "ln": [("a DOUBLE", "CASE WHEN a < 0 THEN 'nan'::DOUBLE ELSE ln(a) END")],
    "log": [("b DOUBLE, a DOUBLE", "im_ln(a) / im_ln(b)")],
    "log2": [("a DOUBLE", "CASE WHEN a < 0 THEN 'nan'::DOUBLE ELSE log2(a) END")],
    "log10": [("a DOUBLE", "CASE WHEN a < 0 THEN 'nan'::DOUBLE ELSE log10(a) END")],
    **{
        name: [("a DOUBLE", f"{name}(a)")]
        for name in ("sin", "cos", "tan", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh", "degrees", "radians")
    },
    "atan2": [("a DOUBLE, b DOUBLE", "atan2(a, b)")],
    "is_nan": [("a DOUBLE", "coalesce(isnan(a), false)")],
    "is_inf": [("a DOUBLE", "coalesce(isinf(a), false)")],
    "bitand": [("a, b", "a & b")],
    "bitor": [("a, b", "a | b")],
    "bitxor": [("a, b", "xor(a, b)")],
    "bitnot": [("a", "~a")],
    "factorial": [("n BIGINT", "CAST(factorial(CAST(n AS INTEGER)) AS BIGINT)")],
    "bin": [("n BIGINT", "bin(n)")],
    "precision": [("a", "im_digits(typeof(a), -1)")],
    "scale": [("a", "im_places(typeof(a))")],
    "fnv_hash": [("x", "CAST(hash(x) >> 1 AS BIGINT)")],
}

# A STRING compared with a DATE or a TIMESTAMP is read as one (fe: DefaultCompatibility.java).
for _name, _sign in (("eq", "="), ("ne", "<>"), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">=")):
    MACROS[_name] = [
        ("a DATE, b VARCHAR", f"a {_sign} im_date(b)"),
        ("a VARCHAR, b DATE", f"im_date(a) {_sign} b"),
        ("a TIMESTAMP, b VARCHAR", f"a {_sign} im_moment(b)"),
        ("a VARCHAR, b TIMESTAMP", f"im_moment(a) {_sign} b"),
        ("a, b", f"a {_sign} b"),
    ]

#: what a cast becomes: like a macro, but written into the query, where the type of ``x`` is known
CASTS = {
    "string": "CASE WHEN typeof(x) LIKE 'DECIMAL%' THEN CAST(x AS VARCHAR) ELSE im_other_string(x) END",
    "double": "CASE WHEN typeof(x) LIKE 'DECIMAL%' THEN TRY_CAST(x AS DOUBLE) ELSE im_other_double(x) END",
    "float": "CASE WHEN typeof(x) IN ('FLOAT', 'VARCHAR') OR typeof(x) LIKE 'DECIMAL%' THEN TRY_CAST(x AS FLOAT) "
    "ELSE CAST(im_other_double(x) AS FLOAT) END",
    "boolean": "im_boolean(x)",
    "timestamp": "CASE WHEN typeof(x) LIKE 'DECIMAL%' THEN im_range(make_timestamp(CAST("
    "TRY_CAST(CAST(x AS VARCHAR) AS DECIMAL(18,6)) * 1000000 AS BIGINT))) ELSE im_number_moment(x) END",
    "date": "im_date(x)",
}
_WHOLE = {"tinyint": 8, "smallint": 16, "integer": 32, "bigint": 64}
for _name, _bits in _WHOLE.items():
    _low, _high = -(2 ** (_bits - 1)), 2 ** (_bits - 1) - 1
    _wrapped = f"((CAST(x AS HUGEINT) % {2**_bits}) + {2**_bits + 2 ** (_bits - 1)}) % {2**_bits} - {2 ** (_bits - 1)}"
    CASTS[_name] = (
        "CASE WHEN typeof(x) LIKE 'DECIMAL%' THEN CAST(round(CAST(CAST(x AS VARCHAR) AS DECIMAL(38,9)), 0) "
        f"AS {_name}) ELSE im_other_to_{_name}(x) END"
    )
    MACROS[f"other_to_{_name}"] = [
        ("x BOOLEAN", f"CAST(x AS {_name})"),
        ("x BIGINT", f"CAST(CASE WHEN x BETWEEN {_low} AND {_high} THEN x ELSE {_wrapped} END AS {_name})"),
        ("x DOUBLE", f"CAST(trunc(x) AS {_name})"),
        (
            "x TIMESTAMP",
            f"CAST(CASE WHEN epoch(x) BETWEEN {_low} AND {_high} THEN CAST(floor(epoch(x)) AS BIGINT) "
            f"ELSE {_wrapped.replace('(x AS', '(floor(epoch(x)) AS')} END AS {_name})",
        ),
        ("x DATE", f"CAST(error('AnalysisException: Invalid type cast from DATE to {_name.upper()}') AS {_name})"),
        ("x VARCHAR", f"CASE WHEN regexp_matches(x, '{_WHOLE_TEXT}') THEN TRY_CAST(x AS {_name}) END"),
    ]

for _unit, (_interval, _kind) in _UNITS.items():
    _n = _interval.format(f"CAST(n AS {_kind})")
    for _word, _sign in (("add", "+"), ("sub", "-")):
        _forms = [
            ("t TIMESTAMP, n BIGINT", f"im_range(t {_sign} {_n})"),
            ("t VARCHAR, n BIGINT", f"im_range(im_moment(t) {_sign} {_n})"),
        ]
        if _unit in ("years", "months", "weeks", "days"):
            _forms.append(("t DATE, n BIGINT", f"im_day_range(CAST(t {_sign} {_n} AS DATE))"))
        MACROS[f"{_unit}_{_word}"] = _forms

# months_add() keeps the last day of a month, INTERVAL n MONTHS does not.
for _word, _sign in (("add", "+"), ("sub", "-")):
    MACROS[f"months_{_word}_interval"] = MACROS[f"months_{_word}"]
    _months = f"to_months(CAST({_sign if _sign == '-' else ''}n AS INTEGER))"
    _shift = "CASE WHEN day(t + to_days(1)) = 1 THEN {last} ELSE {moment} END"
    _moved = _shift.format(
        last=f"CAST(last_day(t + {_months}) AS TIMESTAMP) + (t - date_trunc('day', t))", moment=f"t + {_months}"
    )
    MACROS[f"moved_months_{_word}"] = [("t, n", _moved)]
    MACROS[f"months_{_word}"] = [
        (
            "t DATE, n BIGINT",
            f"im_day_range({_shift.format(last=f'last_day(t + {_months})', moment=f'CAST(t + {_months} AS DATE)')})",
        ),
        ("t TIMESTAMP, n BIGINT", f"im_range(im_moved_months_{_word}(t, n))"),
        ("t VARCHAR, n BIGINT", f"im_range(im_moved_months_{_word}(im_moment(t), n))"),
    ]

for _part in ("year", "quarter", "month", "week", "day", "hour", "minute", "second"):
    _text = "im_clock(t)" if _part in ("hour", "minute", "second") else "im_moment(t)"
    MACROS[_part] = _of_moment(f"CAST(date_part('{_part}', {{t}}) AS INTEGER)", _text)
    MACROS[f"part_{_part}"] = _of_moment(f"CAST(date_part('{_part}', {{t}}) AS BIGINT)")
del MACROS["part_week"]
MACROS["part_millisecond"] = _of_moment("CAST(date_part('millisecond', {t}) AS BIGINT)")
MACROS["part_epoch"] = _of_moment("CAST(floor(epoch({t})) AS BIGINT)")
MACROS["millisecond"] = _of_moment("CAST(date_part('millisecond', {t}) % 1000 AS INTEGER)", "im_clock(t)")
MACROS["dayofyear"] = _of_moment("CAST(date_part('doy', {t}) AS INTEGER)")


def _by_day(name: str, body: str) -> None:
    """A function whose result is a day: a DATE of a DATE, else a TIMESTAMP. ``body`` is of the DATE ``t``."""
    MACROS[f"day_{name}"] = [("t", body)]
    MACROS[name] = [
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
    MACROS[f"trunc_{_unit}"] = _of_moment(f"date_trunc('{_unit}', {{t}})")

#: what the translation and the other macros use; nobody can call these by name
INNER = frozenset(
    [
        "range",
        "day_range",
        "moment",
        "number_moment",
        "date",
        "other_string",
        "text",
        "ascii_only",
        "boolean",
        "other_double",
        "divide",
        "whole_divide",
        "modulo",
        "wrapped_sum",
        "quotient_of",
        "quotient_places",
        "digits",
        "places",
        "read",
        "clock",
        "following",
        "next_day_of",
        "part",
        "months_between_days",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
    ]
) | {name for name in MACROS if name.startswith(("part_", "other_", "trunc_", "day_trunc", "moved_"))}

_SAME = {
    "ifnull": "nvl", "isnull": "nvl", "dayofmonth": "day", "weekofyear": "week", "add_months": "months_add",
    "date_add": "days_add", "adddate": "days_add", "date_sub": "days_sub", "subdate": "days_sub",
    "substring": "substr", "ucase": "upper", "lcase": "lower", "char_length": "length", "character_length": "length",
    "left": "strleft", "right": "strright", "ceiling": "ceil", "dceil": "ceil", "dfloor": "floor", "dround": "round",
    "dtrunc": "truncate", "random": "rand", "pow": "power", "dpow": "power", "fpow": "power", "dsqrt": "sqrt",
    "dexp": "exp", "dlog1": "ln", "dlog10": "log10",
}  # fmt: skip
for _other, _name in _SAME.items():
    MACROS[_other] = MACROS[_name]

#: the same letter by letter, for SET UTF8_MODE=true
UTF8 = frozenset(
    name
    for name, forms in MACROS.items()
    if name not in INNER and any("im_ascii_only" in body or "im_instr" in body for _, body in forms)
) | {"length", "char_length", "character_length", "upper", "lower", "ucase", "lcase"}

#: functions of many rows: the number of arguments Impala takes, and DuckDB's name
AGGREGATES: dict[str, tuple[range, str]] = {
    **{
        name: (range(1, 2), name)
        for name in ("count", "sum", "avg", "min", "max", "stddev", "stddev_samp", "stddev_pop", "var_samp", "var_pop")
    },
    "count": (range(1, 32), "count"),
    "variance": (range(1, 2), "var_samp"),
    "variance_samp": (range(1, 2), "var_samp"),
    "variance_pop": (range(1, 2), "var_pop"),
    "ndv": (range(1, 3), "approx_count_distinct"),
    **{name: (range(1), name) for name in ("row_number", "rank", "dense_rank", "percent_rank", "cume_dist")},
    "ntile": (range(1, 2), "ntile"),
    "lag": (range(1, 4), "lag"),
    "lead": (range(1, 4), "lead"),
    "first_value": (range(1, 2), "first_value"),
    "last_value": (range(1, 2), "last_value"),
}


def macro_statements() -> list[str]:
    """One CREATE MACRO for each function, all its forms in it, each after those it uses; those of UTF8_MODE as
    ``im_letters_<name>``."""
    bodies = {f"im_{name}": forms for name, forms in MACROS.items()}
    for name in UTF8:
        bodies[f"im_letters_{name}"] = [(parameters, _letters(name, body)) for parameters, body in MACROS[name]]
    ordered: dict[str, str] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for _, body in bodies[name]:
                for used in re.findall(r"\bim_\w+", body):
                    add(used)
            ordered[name] = f"CREATE MACRO {name} " + ", ".join(f"({each}) AS {body}" for each, body in bodies[name])

    for name in bodies:
        add(name)
    return list(ordered.values())


def _letters(name: str, body: str) -> str:
    plain = {"upper": "upper(s)", "ucase": "upper(s)", "lower": "lower(s)", "lcase": "lower(s)"}
    if name in plain:
        return plain[name]
    return body.replace("im_ascii_only(", "(").replace("strlen(", "length(").replace("im_instr(", "im_letters_instr(")
