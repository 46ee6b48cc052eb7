"""GetSchemas, GetTables and the like: what this coordinator shows, in the columns that JDBC prescribes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject
from airflow_provider_impala_lb.sandbox.sql.column_types import ColumnType, from_impala
from airflow_provider_impala_lb.sandbox.sql.functions import SHOWN
from airflow_provider_impala_lb.sandbox.sql.plan import Outcome, Plan

View = Mapping[str, CatalogObject]
Work = Callable[[View, Any], Plan]

_STRING, _INT = ColumnType("STRING"), ColumnType("INT")
_JDBC = {
    "BOOLEAN": 16, "TINYINT": -6, "SMALLINT": 5, "INT": 4, "BIGINT": -5, "FLOAT": 6, "DOUBLE": 8, "DECIMAL": 3,
    "STRING": 12, "VARCHAR": 12, "CHAR": 1, "TIMESTAMP": 93, "DATE": 91, "BINARY": -2,
}  # fmt: skip


def _plan(columns: Sequence[str], rows: Sequence[Sequence[Any]], integers: Sequence[str] = ()) -> Plan:
    typed = [(name, _INT if name in integers else _STRING) for name in columns]
    return Plan("METADATA", typed, lambda _: Outcome(rows), immediate=True)


def _matches(text: str, pattern: str | None) -> bool:
    """JDBC's pattern: ``%`` and ``_``. impyla sends ``.*`` for all, which Impala takes as well."""
    if not pattern or pattern in (".*", "*"):
        return True
    parts = (".*" if char == "%" else "." if char == "_" else re.escape(char) for char in pattern.lower())
    return re.fullmatch("".join(parts), text.lower()) is not None


def catalogs(view: View, request: Any) -> Plan:
    """GetCatalogs: none.

    :param view: what the coordinator shows, by key.
    :param request: Thrift's.
    """
    return _plan(["TABLE_CAT"], [])


def schemas(view: View, request: Any) -> Plan:
    """GetSchemas: the databases.

    :param view: what the coordinator shows, by key.
    :param request: Thrift's, with a pattern.
    """
    names = sorted(item.database for item in view.values() if not item.table)
    rows = [(name, "") for name in names if _matches(name, request.schemaName)]
    return _plan(["TABLE_SCHEM", "TABLE_CATALOG"], rows)


def _tables(view: View, request: Any) -> list[CatalogObject]:
    found = [item for item in view.values() if item.table and _matches(item.database, request.schemaName)]
    return sorted((item for item in found if _matches(item.table, request.tableName)), key=lambda item: item.key)


def tables(view: View, request: Any) -> Plan:
    """GetTables: tables and views.

    :param view: what the coordinator shows, by key.
    :param request: Thrift's, with patterns and types.
    """
    wanted = {kind.upper() for kind in request.tableTypes or []}
    found = [item for item in _tables(view, request) if not wanted or item.kind in wanted]
    rows = [("", item.database, item.table, item.kind, item.comment) for item in found]
    return _plan(["TABLE_CAT", "TABLE_SCHEM", "TABLE_NAME", "TABLE_TYPE", "REMARKS"], rows)


def table_types(view: View, request: Any) -> Plan:
    """GetTableTypes: TABLE and VIEW.

    :param view: what the coordinator shows, by key.
    :param request: Thrift's.
    """
    return _plan(["TABLE_TYPE"], [("TABLE",), ("VIEW",)])


def columns(view: View, request: Any) -> Plan:
    """GetColumns: the columns of tables and views.

    :param view: what the coordinator shows, by key.
    :param request: Thrift's, with patterns.
    """
    rows = []
    for table in _tables(view, request):
        for position, (name, text, comment) in enumerate(table.columns, 1):
            if _matches(name, request.columnName):
                kind = from_impala(text)
                size = (_JDBC[kind.name], kind.name, kind.precision, None, kind.scale, 10, 1)
                rows.append(
                    (None, table.database, table.table, name, *size, comment, None, None, None, None, position, "YES")
                )
    names = [
        "TABLE_CAT",
        "TABLE_SCHEM",
        "TABLE_NAME",
        "COLUMN_NAME",
        "DATA_TYPE",
        "TYPE_NAME",
        "COLUMN_SIZE",
        "BUFFER_LENGTH",
        "DECIMAL_DIGITS",
        "NUM_PREC_RADIX",
        "NULLABLE",
        "REMARKS",
        "COLUMN_DEF",
        "SQL_DATA_TYPE",
        "SQL_DATETIME_SUB",
        "CHAR_OCTET_LENGTH",
        "ORDINAL_POSITION",
        "IS_NULLABLE",
    ]
    integers = [*names[4:5], *names[6:11], *names[13:17]]
    return _plan(names, rows, integers)


def functions(view: View, request: Any) -> Plan:
    """GetFunctions: those that people may call.

    :param view: what the coordinator shows, by key.
    :param request: Thrift's, with a pattern.
    """
    rows = [("", "", name, "", 1, name) for name in SHOWN if _matches(name, request.functionName)]
    names = ["FUNCTION_CAT", "FUNCTION_SCHEM", "FUNCTION_NAME", "REMARKS", "FUNCTION_TYPE", "SPECIFIC_NAME"]
    return _plan(names, rows, ["FUNCTION_TYPE"])


def types(view: View, request: Any) -> Plan:
    """GetTypeInfo: the types and JDBC's numbers for them.

    :param view: what the coordinator shows, by key.
    :param request: Thrift's.
    """
    return _plan(["TYPE_NAME", "DATA_TYPE"], list(_JDBC.items()), ["DATA_TYPE"])
