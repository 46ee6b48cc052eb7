"""SHOW and DESCRIBE: what this coordinator knows of the catalog."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject
from airflow_provider_impala_lb.sandbox.common.errors import analysis_error, syntax_error
from airflow_provider_impala_lb.sandbox.sql.analysis import Statement
from airflow_provider_impala_lb.sandbox.sql.column_types import ColumnType
from airflow_provider_impala_lb.sandbox.sql.functions import SHOWN
from airflow_provider_impala_lb.sandbox.sql.plan import Columns, Outcome, Plan, Row

_STRING, _BIGINT = ColumnType("STRING"), ColumnType("BIGINT")
_NAME = r"(?:`?(\w+)`?\s*\.\s*)?`?(\w+)`?"
_LIKE = r"(?:\s+(?:like\s+)?['\"]([^'\"]*)['\"])?"


def plan(statement: Statement, text: str, first: str) -> Plan:
    """The plan of SHOW or DESCRIBE.

    :param statement: it.
    :param text: its text, stripped.
    :param first: the statement's first word, in capitals.
    :raises Refused: ParseException or AnalysisException.
    """
    columns, rows = _describe(statement, text) if first != "SHOW" else _show(statement, text)
    return Plan("DDL", columns, lambda _: Outcome(rows), immediate=True)


def _strings(*names: str) -> Columns:
    return [(name, _STRING) for name in names]


def _show(statement: Statement, text: str) -> tuple[Columns, list[Row]]:
    view = statement.view
    if match := re.fullmatch(rf"(?is)show\s+(?:databases|schemas){_LIKE}", text):
        databases = [item for item in view.values() if not item.table and _matches(item.database, match.group(1))]
        return _strings("name", "comment"), [*sorted((item.database, item.comment) for item in databases)]
    if match := re.fullmatch(rf"(?is)show\s+(tables|views)(?:\s+in\s+`?(\w+)`?)?{_LIKE}", text):
        kind, database, pattern = match.groups()
        names = _table_names(statement, (database or "").lower(), pattern, views_only=kind.lower() == "views")
        return _strings("name"), [(name,) for name in names]
    if match := re.fullmatch(rf"(?is)show\s+create\s+(?:table|view)\s+{_NAME}", text):
        return _strings("result"), [(_create_statement(_existing(statement, match)),)]
    if match := re.fullmatch(
        rf"(?is)show\s+(partitions|table\s+stats|column\s+stats|files\s+in)\s+{_NAME}(?:\s.*)?", text
    ):
        table = statement.existing((match.group(2) or "").lower(), match.group(3).lower())
        return _statistics(table, match.group(1).lower().split()[0])
    if match := re.fullmatch(rf"(?is)show\s+(?:(?:aggregate|analytic)\s+)?functions(?:\s+in\s+\w+)?{_LIKE}", text):
        shown = [("", name, "BUILTIN", "true") for name in SHOWN if _matches(name, match.group(1))]
        return _strings("return type", "signature", "binary type", "is persistent"), list(shown)
    if re.fullmatch(r"(?is)show\s+(current\s+)?roles", text):
        raise analysis_error("Authorization is not enabled.")
    raise syntax_error(text, 5, "IDENTIFIER", "CREATE, DATABASES, FILES, FUNCTIONS, PARTITIONS, TABLE, TABLES, VIEWS")


def _matches(name: str, pattern: str | None) -> bool:
    """Impala's patterns: ``*`` for any text, ``|`` between alternatives."""
    return pattern is None or any(fnmatch.fnmatchcase(name, each.lower()) for each in pattern.split("|"))


def _table_names(statement: Statement, database: str, pattern: str | None, views_only: bool = False) -> list[str]:
    home = statement.database(database or statement.session.database)
    return sorted(
        item.table
        for item in statement.view.values()
        if item.database == home
        and item.table
        and _matches(item.table, pattern)
        and (item.kind == "VIEW" or not views_only)
    )


def _existing(statement: Statement, match: re.Match[str]) -> CatalogObject:
    return statement.existing((match.group(1) or "").lower(), match.group(2).lower())


def _create_statement(table: CatalogObject) -> str:
    """The DDL that would make this table or view."""
    if table.kind == "VIEW":
        return f"CREATE VIEW {table.key} AS {table.sql}"

    def listed(columns: list[tuple[str, str, str]]) -> str:
        return ",\n".join(f"  {name} {kind}" + (f" COMMENT '{text}'" if text else "") for name, kind, text in columns)

    own = [column for column in table.columns if column[0] not in table.partition_columns]
    partition = [column for column in table.columns if column[0] in table.partition_columns]
    parts = [f"CREATE {'EXTERNAL ' if table.external else ''}TABLE {table.key} (\n{listed(own)}\n)"]
    if partition:
        parts.append(f"PARTITIONED BY (\n{listed(partition)}\n)")
    if table.comment:
        parts.append(f"COMMENT '{table.comment}'")
    if table.file_format == "TEXTFILE" and table.delimiter != "\x01":
        parts.append(f"ROW FORMAT DELIMITED FIELDS TERMINATED BY '{table.delimiter}'")
    parts += [f"STORED AS {table.file_format}", f"LOCATION 'file:{table.location}'"]
    if table.properties:
        parts.append("TBLPROPERTIES (" + ", ".join(f"'{name}'='{value}'" for name, value in table.properties) + ")")
    return "\n".join(parts)


def _statistics(table: CatalogObject, word: str) -> tuple[Columns, list[Row]]:
    sizes = {file.path: _size(file.path) for file in table.files}
    if word == "files":
        shown = [(file.path, _human(sizes[file.path]), file.partition) for file in table.files]
        return _strings("path", "size", "partition"), list(shown)
    if word == "column":
        columns = [
            ("column", _STRING),
            ("type", _STRING),
            *((name, _BIGINT) for name in ("#distinct values", "#nulls")),
        ]
        return columns, [(name, kind, -1, -1) for name, kind, _ in table.columns]
    if word == "partitions" and not table.partition_columns:
        raise analysis_error(f"Table is not partitioned: {table.key}")
    fixed: Columns = [
        ("#rows", _BIGINT),
        ("#files", _BIGINT),
        ("size", _STRING),
        ("format", _STRING),
        ("location", _STRING),
    ]
    if not table.partition_columns:
        total = _human(sum(sizes.values()))
        return fixed, [(table.num_rows, len(table.files), total, table.file_format, f"file:{table.location}")]
    rows: list[Row] = []
    for partition in sorted({file.partition for file in table.files}):
        files = [file for file in table.files if file.partition == partition]
        values = [part.split("=", 1)[1] for part in partition.split("/")]
        values = ["NULL" if value == "__HIVE_DEFAULT_PARTITION__" else value for value in values]
        size = _human(sum(sizes[file.path] for file in files))
        rows.append((*values, -1, len(files), size, table.file_format, f"file:{table.location}/{partition}"))
    total = _human(sum(sizes.values()))
    blanks = [""] * (len(table.partition_columns) - 1)
    rows.append(("Total", *blanks, table.num_rows, len(table.files), total, "", ""))
    return [*((name, _STRING) for name in table.partition_columns), *fixed], rows


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _human(size: float) -> str:
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.0f}B" if unit == "B" else f"{size:.2f}{unit}"
        size /= 1024
    return f"{size:.2f}GB"


def _describe(statement: Statement, text: str) -> tuple[Columns, list[Row]]:
    if match := re.fullmatch(r"(?is)(?:describe|desc)\s+database\s+(?:formatted\s+|extended\s+)?`?(\w+)`?", text):
        item = statement.view[statement.database(match.group(1).lower())]
        return _strings("name", "location", "comment"), [(item.database, f"file:{item.location}", item.comment)]
    match = re.fullmatch(rf"(?is)(?:describe|desc)\s+(formatted\s+|extended\s+)?{_NAME}", text)
    if not match:
        raise syntax_error(text, text.find(" ") + 1, "IDENTIFIER", "IDENTIFIER")
    table = statement.existing((match.group(2) or "").lower(), match.group(3).lower())
    columns: list[Row] = [(name, kind.lower(), comment) for name, kind, comment in table.columns]
    if match.group(1) is None:
        return _strings("name", "type", "comment"), columns
    rows: list[Row] = [("# col_name", "data_type", "comment"), *columns, ("", None, None)]
    rows += [
        ("# Detailed Table Information", None, None),
        ("Database:", table.database, None),
        ("Location:", f"file:{table.location}", None),
        ("Table Type:", _table_type(table), None),
        ("Table Parameters:", None, None),
        *(("", name, value) for name, value in table.properties),
        ("", "numRows", str(table.num_rows)),
        ("# Storage Information", None, None),
        ("InputFormat:", table.file_format, None),
    ]
    if table.kind == "VIEW":
        rows += [("# View Information", None, None), ("View Original Text:", table.sql, None)]
    return _strings("name", "type", "comment"), rows


def _table_type(table: CatalogObject) -> str:
    if table.kind == "VIEW":
        return "VIRTUAL_VIEW"
    return "EXTERNAL_TABLE" if table.external else "MANAGED_TABLE"
