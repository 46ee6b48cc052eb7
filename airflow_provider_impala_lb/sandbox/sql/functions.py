"""Impala's functions for DuckDB: macros named ``im_<name>``, typed where Impala's meaning depends on the type.

A function that is not in this table is refused, also if DuckDB has one of its name: names agree more often than
meanings do.
Parameters with a type make DuckDB choose the form by its arguments' types (a DATE stays a DATE), and refuse others.
The sources are ``common/function-registry/impala_functions.py`` and ``be/src/exprs``.
"""

from __future__ import annotations

import re

from airflow_provider_impala_lb.sandbox.common.errors import NOT_HERE
from airflow_provider_impala_lb.sandbox.sql.datetime_functions import DATETIME_MACROS

_DECIMALS = (
    "typeof(a) || typeof(b) LIKE '%DECIMAL%' AND typeof(a) NOT IN ('DOUBLE', 'FLOAT') "
    "AND typeof(b) NOT IN ('DOUBLE', 'FLOAT')"
)
_SMALL, _CAPITAL = "'abcdefghijklmnopqrstuvwxyz'", "'ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
_WHOLE_TEXT = r"^\s*[+-]?\d+\s*$"


#: name -> one (parameters, body) for each form
MACROS: dict[str, list[tuple[str, str]]] = {
    **DATETIME_MACROS,
    # -- what the other macros use, and the translation of operators and casts
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
    # MathFunctions::Unhex: what is no pair of hexadecimal digits after the other is the empty string.
    "unhex_bytes": [
        (
            "s VARCHAR",
            "CASE WHEN s IS NULL THEN NULL WHEN regexp_full_match(s, '([0-9A-Fa-f][0-9A-Fa-f])*') THEN unhex(s) "
            "ELSE encode('') END",
        )
    ],
    "unhex": [
        (
            "s VARCHAR",
            "CASE WHEN s IS NOT NULL AND TRY(decode(im_unhex_bytes(s))) IS NULL THEN error('" + NOT_HERE + ": a STRING "
            "that is not UTF-8; CAST(unhex(...) AS BINARY) may be') ELSE decode(im_unhex_bytes(s)) END",
        )
    ],
    "binary": [("x VARCHAR", "encode(x)"), ("x BLOB", "x")],
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

#: what the translation and the other macros use; nobody can call these by name
INNER = frozenset(
    [
        "binary",
        "unhex_bytes",
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


#: what people may call, but for what the translation adds
SHOWN = sorted(
    (set(MACROS) - INNER)
    | set(AGGREGATES)
    | {
        "appx_median",
        "coalesce",
        "concat",
        "concat_ws",
        "date_part",
        "date_trunc",
        "decode",
        "extract",
        "from_timestamp",
        "greatest",
        "group_concat",
        "least",
        "mod",
        "now",
        "regexp_extract",
        "sleep",
        "trunc",
        "user",
        "utc_timestamp",
        "version",
    }
)


def macro_statements() -> dict[str, str]:
    """For each macro's name its CREATE MACRO, with all its forms; those of UTF8_MODE as ``im_letters_<name>``."""
    bodies = {f"im_{name}": forms for name, forms in MACROS.items()}
    for name in UTF8:
        bodies[f"im_letters_{name}"] = [(parameters, _letters(name, body)) for parameters, body in MACROS[name]]
    return {
        name: f"CREATE MACRO {name} " + ", ".join(f"({parameters}) AS {body}" for parameters, body in forms)
        for name, forms in bodies.items()
    }


def macros_in(sql: str) -> list[str]:
    """What may be the name of a macro in a text, in small letters.

    :param sql: DuckDB's; sqlglot writes some names of functions in capitals.
    """
    return re.findall(r"\bim_\w+", sql.lower())


def _letters(name: str, body: str) -> str:
    plain = {"upper": "upper(s)", "ucase": "upper(s)", "lower": "lower(s)", "lcase": "lower(s)"}
    if name in plain:
        return plain[name]
    return body.replace("im_ascii_only(", "(").replace("strlen(", "length(").replace("im_instr(", "im_letters_instr(")
