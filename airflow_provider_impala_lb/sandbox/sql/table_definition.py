"""CREATE TABLE: its clauses as a table of the catalog."""

from __future__ import annotations

import re
from dataclasses import replace

from sqlglot import exp  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject
from airflow_provider_impala_lb.sandbox.common.errors import analysis_error
from airflow_provider_impala_lb.sandbox.sql.analysis import Statement
from airflow_provider_impala_lb.sandbox.sql.column_types import from_impala
from airflow_provider_impala_lb.sandbox.sql.dialect import Impala
from airflow_provider_impala_lb.sandbox.sql.table_files import local_path


def definition(statement: Statement, key: str, tree: exp.Create, schema: exp.Schema | None) -> CatalogObject:
    """The table that CREATE TABLE describes, without files.

    :param statement: it.
    :param key: ``db.table``.
    :param tree: it, parsed.
    :param schema: its list of columns; None: it has none (LIKE, AS SELECT).
    :raises Refused: AnalysisException; or something that the sandbox has not.
    """
    database, short = key.split(".", 1)
    found = tree.args.get("properties")
    properties = found.expressions if found is not None else []
    columns = columns_of(schema.expressions if schema is not None else [])
    partition: list[tuple[str, str, str]] = []
    table = CatalogObject(database, short, location=str(statement.directory(database, short)))
    pairs: list[tuple[str, str]] = []
    for item in properties:
        if isinstance(item, exp.LikeProperty):
            original = statement.existing(item.this.db, item.this.name)
            table = replace(
                table,
                columns=original.columns,
                partition_columns=original.partition_columns,
                file_format=original.file_format,
                delimiter=original.delimiter,
            )
        elif isinstance(item, exp.PartitionedByProperty):
            partition = _partition_columns(item.this)
        elif isinstance(item, exp.FileFormatProperty):
            table = replace(table, file_format=_file_format(item))
        elif isinstance(item, exp.RowFormatDelimitedProperty):
            fields = item.args.get("fields")
            table = replace(table, delimiter=_delimiter(fields.name) if fields is not None else "\x01")
        elif isinstance(item, exp.LocationProperty):
            table = replace(table, location=str(statement.node.confinement.check(local_path(item.this.name))))
        elif isinstance(item, exp.ExternalProperty):
            table = replace(table, external=True)
        elif isinstance(item, exp.SchemaCommentProperty):
            table = replace(table, comment=item.this.name)
        elif isinstance(item, exp.Property) and item.name:
            pairs.append((item.name, item.args["value"].name))
    if not any(isinstance(item, (exp.FileFormatProperty, exp.LikeProperty)) for item in properties):
        table = replace(table, file_format=_default_format(statement))
    if not table.columns:
        typed = [column for column in partition if column[1]]
        table = replace(
            table,
            columns=(*columns, *typed),
            partition_columns=tuple(name for name, _, _ in partition),
        )
    return replace(table, properties=tuple(pairs))


def columns_of(items: list[exp.Expression]) -> tuple[tuple[str, str, str], ...]:
    """Name, Impala type and comment of columns in DDL.

    :param items: the definitions, parsed.
    :raises Refused: AnalysisException; or something that the sandbox has not.
    """
    columns = []
    for item in items:
        if not isinstance(item, exp.ColumnDef) or item.kind is None:
            raise analysis_error(
                f"The sandbox does not support this in a table's definition: {item.sql(dialect=Impala)}"
            )
        if not re.fullmatch(r"\w+", item.name):
            raise analysis_error(f"Invalid column/field name: {item.name}")
        comment = next(
            (each.kind.this.name for each in item.constraints if isinstance(each.kind, exp.CommentColumnConstraint)), ""
        )
        columns.append((item.name, str(from_impala(item.kind.sql(dialect=Impala))), comment))
    return tuple(columns)


def _partition_columns(clause: exp.Expression) -> list[tuple[str, str, str]]:
    """With types in CREATE TABLE; names only in CREATE TABLE AS SELECT (their type is empty here)."""
    if all(isinstance(item, exp.ColumnDef) and item.kind is not None for item in clause.expressions):
        return list(columns_of(clause.expressions))
    return [(item.name, "", "") for item in clause.expressions]


def _file_format(item: exp.Expression) -> str:
    name = str(item.this.name if isinstance(item.this, exp.Expression) else item.this).upper()
    known = {"PARQUET": "PARQUET", "TEXTFILE": "TEXTFILE", "TEXT": "TEXTFILE"}
    if name not in known:
        raise analysis_error(f"STORED AS {name} is not supported by the sandbox (PARQUET and TEXTFILE are).")
    return known[name]


def _default_format(statement: Statement) -> str:
    chosen = statement.options.get("DEFAULT_FILE_FORMAT", "TEXT").upper()
    return "PARQUET" if chosen == "PARQUET" else "TEXTFILE"


def _delimiter(text: str) -> str:
    named = {"\\t": "\t", "\\001": "\x01", "\\u0001": "\x01"}
    if text in named:
        return named[text]
    return chr(int(text)) if text.isdigit() and len(text) > 1 else text
