"""INSERT and LOAD DATA: new files for a table, handed to the catalog in one change."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from pathlib import Path

from sqlglot import exp  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject, DataFile
from airflow_provider_impala_lb.sandbox.common.confinement import Confinement
from airflow_provider_impala_lb.sandbox.common.errors import analysis_error, server_error, syntax_error
from airflow_provider_impala_lb.sandbox.sql.analysis import Statement
from airflow_provider_impala_lb.sandbox.sql.column_types import from_impala, quote, text_literal
from airflow_provider_impala_lb.sandbox.sql.dialect import parse
from airflow_provider_impala_lb.sandbox.sql.plan import Columns, Outcome, Plan, RunningStatement
from airflow_provider_impala_lb.sandbox.sql.query import Query, translate
from airflow_provider_impala_lb.sandbox.sql.table_files import list_files, local_path, partition_of


def plan(statement: Statement, text: str, first: str) -> Plan:
    """The plan of INSERT or LOAD DATA.

    :param statement: it.
    :param text: its text, stripped.
    :param first: the statement's first word, in capitals.
    :raises Refused: ParseException or AnalysisException; UPDATE and the like, which Impala has for other tables only.
    """
    if first == "LOAD":
        return _load_data(statement, text)
    if first != "INSERT":
        raise analysis_error(f"Impala does not support modifying a non-Kudu, non-Iceberg table: {first}")
    tree = parse(_with_table_keyword(text))
    if not isinstance(tree, exp.Insert):
        raise syntax_error(text, 0, first)
    return plan_insert(statement, tree)


def _with_table_keyword(text: str) -> str:
    # Impala lets the word TABLE out after OVERWRITE; Hive's grammar does not.
    return re.sub(r"(?is)^(insert\s+overwrite)\s+(?!table\b)", r"\1 TABLE ", text)


def plan_insert(statement: Statement, tree: exp.Insert) -> Plan:
    """The plan of an INSERT.

    :param statement: it.
    :param tree: it, parsed; also ``WITH ... INSERT`` and ``FROM ... INSERT``.
    :raises Refused: AnalysisException.
    """
    target = tree.this
    written = target.expressions if isinstance(target, exp.Schema) else []
    name = target.this if isinstance(target, exp.Schema) else target
    static = _partition_clause(tree.args.get("partition") or name.args.get("partition"))
    table = statement.scope.table(name.name, name.db)
    if table.kind == "VIEW":
        raise analysis_error(f"Impala does not support INSERTing into views: {table.key}")
    source = tree.expression
    if source is None:
        raise analysis_error("INSERT needs a SELECT or VALUES.")
    for clause in ("with_", "with"):
        if tree.args.get(clause) and not source.args.get(clause):
            source.set(clause, tree.args[clause])
    query = translate(source, statement.scope)
    columns = statement.node.engine.describe(query.typed())
    listed = [column.name for column in written] or [
        column for column, _, _ in table.columns if column not in table.partition_columns
    ]
    dynamic = [column for column, value in static.items() if value is None]
    order = listed + [column for column in dynamic if column not in listed]
    _check_partitions(table, static, order)
    expressions = _expressions(table, columns, order, static, query.nulls)

    def run(running: RunningStatement) -> Outcome:
        query.check_files(statement.node.address, statement.node.confinement)
        files = write(running, statement.node.confinement, table, query, len(columns), expressions)
        modified: dict[str, int] = {}
        for file in files:
            modified[file.partition] = modified.get(file.partition, 0) + (file.rows or 0)
        commit(running, table.key, files, static, bool(tree.args.get("overwrite")))
        return Outcome(modified=modified or {"": 0})

    text = f"WRITE TO HDFS [{table.key}, OVERWRITE={str(bool(tree.args.get('overwrite'))).lower()}]"
    return Plan("DML", None, run, files=query.file_count, text=text)


def _partition_clause(clause: exp.Expression | None) -> dict[str, str | None]:
    """``PARTITION (p=1, q)`` -> ``{"p": "1", "q": None}``, the values as DuckDB's text."""
    found: dict[str, str | None] = {}
    for item in clause.expressions if clause is not None else []:
        if isinstance(item, exp.EQ):
            found[item.this.name] = item.expression.sql(dialect="duckdb")
        else:
            found[item.name] = None
    return found


def _check_partitions(table: CatalogObject, static: dict[str, str | None], order: list[str]) -> None:
    for column in static:
        if column not in table.partition_columns:
            raise analysis_error(f"Column '{column}' is not a partition column of '{table.key}'.")
    missing = [column for column in table.partition_columns if column not in static and column not in order]
    if missing:
        raise analysis_error(
            "Not enough partition columns mentioned in query. Missing columns are: " + ", ".join(missing)
        )
    names = {name for name, _, _ in table.columns}
    for column in order:
        if column not in names:
            raise analysis_error(f"Unknown column '{column}' in column permutation")


def _expressions(
    table: CatalogObject, columns: Columns, order: list[str], static: dict[str, str | None], nulls: frozenset[int]
) -> list[str]:
    """For each column of the table the DuckDB expression over ``source(c0, c1, ...)`` that fills it."""
    if len(order) != len(columns):
        word = "more" if len(order) > len(columns) else "fewer"
        raise analysis_error(
            f"Target table '{table.key}' has {word} columns ({len(order)}) than the SELECT / VALUES clause "
            f"returns ({len(columns)})"
        )
    expressions = []
    for name, kind, _ in table.columns:
        wanted = from_impala(kind)
        if static.get(name) is not None:
            expressions.append(f"CAST({static[name]} AS {wanted.duckdb}) AS {quote(name)}")
        elif name in order:
            position = order.index(name)
            given_name, given = columns[position]
            if position not in nulls and not wanted.takes(given):
                raise analysis_error(
                    f"Target table '{table.key}' is incompatible with source expressions.\nExpression '{given_name}' "
                    f"(type: {given}) is not compatible with column '{name}' (type: {wanted})"
                )
            expressions.append(f"CAST(c{position} AS {wanted.duckdb}) AS {quote(name)}")
        else:
            expressions.append(f"CAST(NULL AS {wanted.duckdb}) AS {quote(name)}")
    return expressions


def write(
    running: RunningStatement,
    confinement: Confinement,
    table: CatalogObject,
    query: Query,
    width: int,
    expressions: list[str],
) -> list[DataFile]:
    """Run a query and write its rows to new files of a table. Nobody reads them before the catalog has them.

    :param running: the statement it is done for.
    :param confinement: which files it may touch.
    :param table: whose directory and format they get.
    :param query: where the rows come from.
    :param width: how many columns the query has.
    :param expressions: for each column of the table, DuckDB's expression over the query's columns ``c0``, ``c1`` ...
    :returns: the files, with their rows counted; none for an empty result.
    :raises StatementCancelled: somebody cancelled the statement.
    :raises Refused: the directory leads out of those that tables may be in.
    """
    directory = confinement.check(table.location)
    staging = directory / "_impala_insert_staging" / running.id.replace(":", "_")
    staging.mkdir(parents=True)
    try:
        names = ", ".join(f"c{number}" for number in range(width))
        source = f"({query.reading()}) AS source({names})"
        select = f"SELECT {', '.join(expressions)} FROM {source}"  # noqa: S608 (names are quoted)
        copy = _copy(table, select, staging, running.id)
        cursor = running.cursor(copy)
        cursor.execute(copy)
        running.begin_finalising()
        return _move(cursor, table, staging, directory, confinement)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _copy(table: CatalogObject, select: str, staging: Path, query_id: str) -> str:
    stem = f"{query_id.replace(':', '-')}_{uuid.uuid4().int % 10**9}"
    own = ", ".join(map(quote, table.partition_columns))
    text = table.file_format == "TEXTFILE"
    form = (
        f"FORMAT csv, HEADER false, DELIMITER {text_literal(table.delimiter)}, NULLSTR '\\N', QUOTE '', ESCAPE ''"
        if text
        else "FORMAT parquet"
    )
    if own:
        keep = "" if text else ", WRITE_PARTITION_COLUMNS true"
        return (
            f"COPY ({select}) TO {text_literal(str(staging))} ({form}, PARTITION_BY ({own}), OVERWRITE_OR_IGNORE true, "
            f"FILENAME_PATTERN {text_literal(stem + '_{i}')}{keep})"
        )
    name = f"{stem}_data.0.{'txt' if text else 'parq'}"
    return f"COPY ({select}) TO {text_literal(str(staging / name))} ({form})"


def _move(
    cursor: object, table: CatalogObject, staging: Path, directory: Path, confinement: Confinement
) -> list[DataFile]:
    written = sorted(path for path in staging.rglob("*") if path.is_file())
    counts = _count_rows(cursor, table, written)
    files = []
    for path in written:
        if not counts[path]:
            continue
        partition = partition_of(path.relative_to(staging).parent)
        place = directory / path.relative_to(staging)
        confinement.check(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)
        files.append(DataFile(str(place), counts[path], partition))
    return files


def _count_rows(cursor: object, table: CatalogObject, paths: list[Path]) -> dict[Path, int]:
    if table.file_format == "TEXTFILE":
        return {path: _lines(path) for path in paths}
    if not paths:
        return {}
    listed = ", ".join(text_literal(str(path)) for path in paths)
    rows = cursor.execute(  # type: ignore[attr-defined]
        f"SELECT file_name, num_rows FROM parquet_file_metadata([{listed}])"  # noqa: S608 (quoted)
    ).fetchall()
    return {Path(name): count for name, count in rows}


def _lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def commit(
    running: RunningStatement, key: str, files: list[DataFile], static: dict[str, str | None], overwrite: bool
) -> None:
    """Put the files into the catalog. What OVERWRITE replaced is deleted: coordinators that still list it fail to read
    it. Without files and OVERWRITE the catalog service is not asked (``DmlExecState::PrepareCatalogUpdate``).

    :param running: the statement it is done for.
    :param key: of the table.
    :param files: new ones.
    :param static: the partition as written: DuckDB's text by column, None where it is dynamic.
    :param overwrite: what was there is replaced.
    :raises Refused: the table is gone.
    """
    if not files and not overwrite:
        return
    with running.catalog_change() as change:
        table = change.latest.get(key)
        if table is None:
            for file in files:
                Path(file.path).unlink(missing_ok=True)
            raise server_error(f"Table not found: {key}")
        removed: list[str] = []
        if overwrite:
            removed = [file.path for file in table.files if _overwritten(table, file, files, static)]
        if files or removed:
            change.files(key, files, removed)
    for path in removed:
        Path(path).unlink(missing_ok=True)


def _overwritten(table: CatalogObject, old: DataFile, new: list[DataFile], static: dict[str, str | None]) -> bool:
    """All of an unpartitioned table; else the partitions named in PARTITION, or those that got rows."""
    if not table.partition_columns or old.partition in {file.partition for file in new}:
        return True
    if any(value is None for value in static.values()) or not static:
        return False
    values = dict(part.split("=", 1) for part in old.partition.split("/"))
    return all(values.get(name) == (value or "").strip("'") for name, value in static.items())


_LOAD = re.compile(
    r"(?is)load\s+data\s+inpath\s+(?:'([^']*)'|\"([^\"]*)\")\s*(overwrite\s+)?into\s+table\s+((?:`?\w+`?\.)?`?\w+`?)"
    r"(?:\s+partition\s*\((.*)\))?"
)


def _load_data(statement: Statement, text: str) -> Plan:
    match = _LOAD.fullmatch(text)
    if not match:
        raise syntax_error(text, 0, "LOAD", "LOAD DATA INPATH '...' [OVERWRITE] INTO TABLE ...")
    single, double, overwrite, name, partition = match.groups()
    database, _, short = name.replace("`", "").lower().rpartition(".")
    table = statement.scope.table(short, database)
    confinement = statement.node.confinement
    source = confinement.check(local_path(single or double))
    if not source.exists():
        raise analysis_error(f"INPATH location '{source}' does not exist.")
    pairs = re.findall(r"(\w+)\s*=\s*'?([^',]*)'?", partition or "")
    where = "/".join(f"{column.lower()}={value.strip()}" for column, value in pairs)
    if len(pairs) != len(table.partition_columns):
        raise analysis_error(f"Partition spec does not match the partition columns of '{table.key}'.")
    statically: dict[str, str | None] = {column.lower(): value.strip() for column, value in pairs}

    def run(running: RunningStatement) -> Outcome:
        paths = [source] if source.is_file() else list_files(source)
        target = confinement.check(Path(table.location) / where)
        target.mkdir(parents=True, exist_ok=True)
        for path in paths:
            confinement.check(path)
        files = []
        for path in paths:
            place = target / path.name
            if place.exists():
                place = target / f"{path.stem}_{uuid.uuid4().hex}{path.suffix}"
            shutil.move(path, place)
            files.append(DataFile(str(place), None, where))
        commit(running, table.key, files, statically, overwrite is not None)
        total = len(table.files) * (overwrite is None) + len(files)
        return Outcome([(f"Loaded {len(files)} file(s). Total files in destination location: {total}",)])

    return Plan("LOAD", [("summary", from_impala("string"))], run)
