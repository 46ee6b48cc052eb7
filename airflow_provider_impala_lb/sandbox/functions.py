"""Impala's functions that DuckDB has not, or has with another meaning: as DuckDB macros named ``im_<name>``."""

from __future__ import annotations

_FULL = "'%Y-%m-%d %H:%M:%S'"
_UNITS = {
    "years": "to_years({})",
    "months": "to_months({})",
    "weeks": "to_weeks({})",
    "days": "to_days({})",
    "hours": "to_hours({})",
    "minutes": "to_minutes({})",
    "seconds": "to_seconds({})",
    "milliseconds": "to_milliseconds({})",
    "microseconds": "to_microseconds({})",
}
_TRUNC_UNIT = (
    "CASE upper(u) WHEN 'SYYYY' THEN 'year' WHEN 'YYYY' THEN 'year' WHEN 'YEAR' THEN 'year' WHEN 'SYEAR' THEN 'year' "
    "WHEN 'YYY' THEN 'year' WHEN 'YY' THEN 'year' WHEN 'Y' THEN 'year' WHEN 'Q' THEN 'quarter' "
    "WHEN 'MONTH' THEN 'month' "
    "WHEN 'MON' THEN 'month' WHEN 'MM' THEN 'month' WHEN 'RM' THEN 'month' WHEN 'DDD' THEN 'day' WHEN 'DD' THEN 'day' "
    "WHEN 'J' THEN 'day' WHEN 'DAY' THEN 'week' WHEN 'DY' THEN 'week' WHEN 'D' THEN 'week' WHEN 'HH' THEN 'hour' "
    "WHEN 'HH12' THEN 'hour' WHEN 'HH24' THEN 'hour' WHEN 'MI' THEN 'minute' ELSE u END"
)
_TS = "CAST({} AS TIMESTAMP)"
_T = _TS.format("t")
# A date stays a date, everything else (also text) becomes a timestamp: as in Impala.
_SHIFT = "CASE WHEN typeof(t) = 'DATE' THEN CAST({0} AS TIMESTAMP) ELSE {0} END"

#: name -> one (parameters, body) for each number of parameters
MACROS: dict[str, list[tuple[str, str]]] = {
    "nvl": [("a, b", "coalesce(a, b)")],
    "ifnull": [("a, b", "coalesce(a, b)")],
    "isnull": [("a, b", "coalesce(a, b)")],
    "nvl2": [("a, b, c", "CASE WHEN a IS NOT NULL THEN b ELSE c END")],
    "zeroifnull": [("a", "coalesce(a, 0)")],
    "nullifzero": [("a", "nullif(a, 0)")],
    "isfalse": [("a", "coalesce(a = false, false)")],
    "istrue": [("a", "coalesce(a = true, false)")],
    "isnottrue": [("a", "coalesce(a <> true, true)")],
    "isnotfalse": [("a", "coalesce(a <> false, true)")],
    "from_unixtime": [
        ("s", f"strftime(make_timestamp(CAST(s AS BIGINT) * 1000000), {_FULL})"),
    ],
    "unix_timestamp": [
        ("t", f"CAST(floor(epoch({_T})) AS BIGINT)"),
    ],
    "to_timestamp": [
        ("t", "make_timestamp(CAST(t AS BIGINT) * 1000000)"),
    ],
    "to_date": [("t", f"strftime({_T}, '%Y-%m-%d')")],
    "date_trunc": [("u, t", f"CAST(date_trunc(u, {_T}) AS TIMESTAMP)")],
    "trunc": [
        ("t", "trunc(t)"),
        ("t, u", f"CAST(date_trunc({_TRUNC_UNIT}, {_T}) AS TIMESTAMP)"),
    ],
    "date_part": [("u, t", f"CAST(date_part(u, {_T}) AS BIGINT)")],
    "dayofweek": [("t", f"CAST(dayofweek({_T}) + 1 AS INTEGER)")],
    "dayname": [("t", f"dayname({_T})")],
    "monthname": [("t", f"monthname({_T})")],
    "datediff": [("a, b", "CAST(date_diff('day', CAST(b AS DATE), CAST(a AS DATE)) AS INTEGER)")],
    "months_between": [
        (
            "a, b",
            "date_diff('month', CAST(b AS DATE), CAST(a AS DATE)) "
            "+ (day(CAST(a AS DATE)) - day(CAST(b AS DATE))) / 31.0",
        )
    ],
    "last_day": [("t", f"CAST(last_day({_T}) AS TIMESTAMP)")],
    "next_day": [
        (
            "t, d",
            f"CAST({_T} AS DATE) + CAST(1 + (6 + list_position(['sun','mon','tue','wed','thu','fri','sat'], "
            f"lower(left(d, 3))) - 1 - dayofweek({_T})) % 7 AS INTEGER)",
        )
    ],
    "add_months": [("t, n", _SHIFT.format(f"{_T} + to_months(CAST(n AS INTEGER))"))],
    "regexp_replace": [("s, p, r", "regexp_replace(s, p, r, 'g')")],
    "regexp_extract": [("s, p, n", "regexp_extract(s, p, n)")],
    "instr": [("s, x", "CAST(instr(s, x) AS INTEGER)")],
    "locate": [("x, s", "CAST(instr(s, x) AS INTEGER)")],
    "strleft": [("s, n", "left(s, n)")],
    "strright": [("s, n", "right(s, n)")],
    "initcap": [
        (
            "s",
            "list_reduce(list_transform(string_split(lower(s), ' '), lambda w: upper(w[1]) || w[2:]), "
            "lambda x, y: x || ' ' || y)",
        )
    ],
    "space": [("n", "repeat(' ', n)")],
    "btrim": [("s", "trim(s)"), ("s, c", "trim(s, c)")],
    "char_length": [("s", "CAST(length(s) AS INTEGER)")],
    "character_length": [("s", "CAST(length(s) AS INTEGER)")],
    "length": [("s", "CAST(length(CAST(s AS VARCHAR)) AS INTEGER)")],
    "ndv": [("x", "approx_count_distinct(x)")],
    "appx_median": [("x", "quantile_disc(x, 0.5)")],
    "variance_samp": [("x", "var_samp(x)")],
    "variance_pop": [("x", "var_pop(x)")],
    "pmod": [("a, b", "((a % b) + b) % b")],
    "quotient": [("a, b", "CAST(trunc(a) AS BIGINT) // CAST(trunc(b) AS BIGINT)")],
    "dround": [("a", "round(a)"), ("a, b", "round(a, b)")],
    "dceil": [("a", "ceil(a)")],
    "dfloor": [("a", "floor(a)")],
    "truncate": [("a", "trunc(a)"), ("a, d", "trunc(a * power(10, d)) / power(10, d)")],
    "precision": [("a", "CAST(regexp_extract(typeof(a), '\\((\\d+)', 1) AS INTEGER)")],
    "scale": [("a", "CAST(regexp_extract(typeof(a), ',(\\d+)', 1) AS INTEGER)")],
    "e": [("", "exp(1.0::DOUBLE)")],
    "rand": [("", "random()"), ("s", "random()")],
    "uuid": [("", "CAST(gen_random_uuid() AS VARCHAR)")],
    "fnv_hash": [("x", "CAST(hash(x) >> 1 AS BIGINT)")],
    "typeof": [
        (
            "x",
            "CASE typeof(x) WHEN 'INTEGER' THEN 'INT' WHEN 'VARCHAR' THEN 'STRING' WHEN 'HUGEINT' THEN 'BIGINT' "
            "WHEN '\"NULL\"' THEN 'BOOLEAN' WHEN 'BLOB' THEN 'BINARY' ELSE typeof(x) END",
        )
    ],
}

for _unit, _interval in _UNITS.items():
    _plus = (
        _interval.format("CAST(n AS BIGINT)") if _unit.endswith("seconds") else _interval.format("CAST(n AS INTEGER)")
    )
    MACROS[f"{_unit}_add"] = [("t, n", f"{_T} + {_plus}")]
    MACROS[f"{_unit}_sub"] = [("t, n", f"{_T} - {_plus}")]
for _part in ("year", "quarter", "month", "week", "day", "hour", "minute", "second", "millisecond"):
    MACROS[_part] = [("t", f"CAST(date_part('{_part}', {_T}) AS INTEGER)")]
MACROS["millisecond"] = [("t", f"CAST(date_part('millisecond', {_T}) % 1000 AS INTEGER)")]
MACROS["dayofmonth"] = MACROS["day"]
MACROS["weekofyear"] = MACROS["week"]
MACROS["dayofyear"] = [("t", f"CAST(date_part('doy', {_T}) AS INTEGER)")]
MACROS["date_add"] = MACROS["adddate"] = MACROS["days_add"]
MACROS["date_sub"] = MACROS["subdate"] = MACROS["days_sub"]


def macro_statements() -> list[str]:
    """One CREATE MACRO for each function, all its numbers of parameters in it."""
    return [
        f"CREATE MACRO im_{name} " + ", ".join(f"({parameters}) AS {body}" for parameters, body in forms)
        for name, forms in MACROS.items()
    ]
