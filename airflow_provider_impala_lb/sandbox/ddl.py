"""CREATE, DROP, ALTER, TRUNCATE, COMPUTE STATS, REFRESH, INVALIDATE METADATA."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sqlglot import exp  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox import dml
from airflow_provider_impala_lb.sandbox.catalog import CatalogObject, Change, DataFile
from airflow_provider_impala_lb.sandbox.column_types import from_impala
from airflow_provider_impala_lb.sandbox.dialect import Impala, parse
from airflow_provider_impala_lb.sandbox.operation import Columns, Operation, Outcome, Plan
from airflow_provider_impala_lb.sandbox.query import file_relation, quote, translate
from airflow_provider_impala_lb.sandbox.refusal import analysis_error, server_error, syntax_error
from airflow_provider_impala_lb.sandbox.statement import Statement

# Every DDL answers with one row that says what it did; REFRESH and INVALIDATE METADATA answer with none.
_SUMMARY: Columns = [("summary", from_impala("string"))]
_NAME = r"(?:`?(\w+)`?\s*\.\s*)?`?(\w+)`?"


def plan(statement: Statement, text: str, first: str) -> Plan:
    """:param first: the statement's first word."""
    if first in ("REFRESH", "INVALIDATE"):
        return _refresh(statement, text)
    if first == "COMPUTE":
        return _compute_stats(statement, text)
    if first == "ALTER":
        return _alter(statement, text)
    if re.match(r"(?i)drop\s+(incremental\s+)?stats\b", text):
        return _drop_stats(statement, text)
    if re.match(r"(?i)(create|drop)\s+(database|schema)\b", text):
        return _database(statement, text, first)
    tree = parse(_for_hive(text))
    if isinstance(tree, exp.Create):
        return _create(statement, text, tree)
    if isinstance(tree, exp.Drop):
        return _drop(statement, text, tree)
    if isinstance(tree, exp.TruncateTable):
        return _truncate(statement, tree)
    raise syntax_error(text, 0, first)


def _for_hive(text: str) -> str:
    """Clauses of Impala that Hive's grammar lacks, and that change nothing here, are left out."""
    text = re.sub(r"(?is)\bsort\s+by\s+(zorder\s*|lexical\s*)?\([^)]*\)", " ", text)
    return re.sub(r"(?is)\bcached\s+in\s+'[^']*'(\s+with\s+replication\s*=\s*\d+)?|\buncached\b", " ", text)


def _changing(summary: str, work: Callable[[Operation, Change], str | None], statement: Statement) -> Plan:
    """A plan that runs ``work`` in one change of the catalog; ``work`` may return another summary."""

    def run(operation: Operation) -> Outcome:
        operation.check_cancelled()
        with statement.coordinator.catalog.change() as change:
            said = work(operation, change)
        return Outcome([(said or summary,)])

    return Plan("DDL", _SUMMARY, run, changes_catalog=True)


# -- databases


def _database(statement: Statement, text: str, first: str) -> Plan:
    pattern = (
        r"(?is)(?:create|drop)\s+(?:database|schema)\s+(if\s+(?:not\s+)?exists\s+)?`?(\w+)`?"
        r"(?:\s+comment\s+'([^']*)')?(?:\s+(?:managed)?location\s+'[^']*')?(\s+cascade|\s+restrict)?"
    )
    match = re.fullmatch(pattern, text)
    if not match:
        raise syntax_error(text, 0, first)
    lenient, name, comment = bool(match.group(1)), match.group(2).lower(), match.group(3) or ""
    if first == "CREATE":
        return _create_database(statement, name, comment, lenient)
    cascade = (match.group(4) or "").strip().lower() == "cascade"
    return _drop_database(statement, name, lenient, cascade)


def _create_database(statement: Statement, name: str, comment: str, lenient: bool) -> Plan:
    if name in statement.view and not lenient:
        raise analysis_error(f"Database already exists: {name}")

    def work(_: Operation, change: Change) -> str | None:
        if name not in change.latest:
            change.put(CatalogObject(name, comment=comment, location=str(statement.directory(name))))
        elif lenient:
            change.put(change.latest[name])  # this coordinator learns of it at once
            return "Database already exists."
        else:
            raise server_error(
                "Error making 'createDatabase' RPC to Hive Metastore: \nCAUSED BY: AlreadyExistsException: "
                f"Database {name} already exists"
            )
        return None

    return _changing("Database has been created.", work, statement)


def _drop_database(statement: Statement, name: str, lenient: bool, cascade: bool) -> Plan:
    if name == "default":
        raise analysis_error("Cannot drop default database.")
    if name == statement.session.database:
        raise analysis_error(f"Cannot drop current default database: {name}")
    if name not in statement.view and not lenient:
        raise analysis_error(f"Database does not exist: {name}")

    def work(_: Operation, change: Change) -> str | None:
        if name not in change.latest:
            if lenient:
                return "Database does not exist."
            raise server_error(f"Database not found: {name}")
        tables = [item for item in change.latest.values() if item.database == name and item.table]
        if tables and not cascade:
            raise server_error(
                "Error making 'dropDatabase' RPC to Hive Metastore: \nCAUSED BY: InvalidOperationException: "
                f"Database {name} is not empty. One or more tables exist."
            )
        for table in tables:
            _remove(change, table)
        change.drop(name)
        shutil.rmtree(statement.directory(name), ignore_errors=True)
        return None

    return _changing("Database has been dropped.", work, statement)


# -- tables and views


def _create(statement: Statement, text: str, tree: exp.Create) -> Plan:
    kind = (tree.args.get("kind") or "").upper()
    if kind == "VIEW":
        return _create_view(statement, text, tree)
    if kind != "TABLE":
        raise analysis_error(f"CREATE {kind} is not supported by the sandbox.")
    target = tree.this
    schema = target if isinstance(target, exp.Schema) else None
    name = target.this if schema is not None else target
    key = statement.name(name.db, name.name)
    lenient = bool(tree.args.get("exists"))
    if key in statement.view and not lenient:
        raise analysis_error(f"Table already exists: {key}")
    table = _definition(statement, key, tree, schema)
    if tree.expression is not None:
        return _create_as_select(statement, table, tree.expression, lenient, key in statement.view)

    def work(_: Operation, change: Change) -> str | None:
        if key in change.latest:
            if not lenient:
                raise _exists(key)
            change.put(change.latest[key])
            return "Table already exists."
        Path(table.location).mkdir(parents=True, exist_ok=True)
        change.put(with_listed_files(table))
        return None

    return _changing("Table has been created.", work, statement)


def _exists(key: str) -> Exception:
    return server_error(
        "Error making 'createTable' RPC to Hive Metastore: \nCAUSED BY: AlreadyExistsException: "
        f"Table {key} already exists"
    )


def _definition(statement: Statement, key: str, tree: exp.Create, schema: exp.Schema | None) -> CatalogObject:
    database, short = key.split(".", 1)
    found = tree.args.get("properties")
    properties = found.expressions if found is not None else []
    columns = _columns(schema.expressions if schema is not None else [])
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
            table = replace(table, location=str(dml.local_path(item.this.name)))
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


def _columns(items: list[exp.Expression]) -> tuple[tuple[str, str, str], ...]:
    columns = []
    for item in items:
        if not isinstance(item, exp.ColumnDef) or item.kind is None:
            raise analysis_error(
                f"The sandbox does not support this in a table's definition: {item.sql(dialect=Impala)}"
            )
        comment = next(
            (each.kind.this.name for each in item.constraints if isinstance(each.kind, exp.CommentColumnConstraint)), ""
        )
        columns.append((item.name, str(from_impala(item.kind.sql(dialect=Impala))), comment))
    return tuple(columns)


def _partition_columns(clause: exp.Expression) -> list[tuple[str, str, str]]:
    """With types in CREATE TABLE; names only in CREATE TABLE AS SELECT (their type is empty here)."""
    if all(isinstance(item, exp.ColumnDef) and item.kind is not None for item in clause.expressions):
        return list(_columns(clause.expressions))
    return [(item.name, "", "") for item in clause.expressions]


def _file_format(item: exp.Expression) -> str:
    name = str(item.this.name if isinstance(item.this, exp.Expression) else item.this).upper()
    known = {"PARQUET": "PARQUET", "TEXTFILE": "TEXTFILE", "TEXT": "TEXTFILE"}
    if name not in known:
        raise analysis_error(f"STORED AS {name} is not supported by the sandbox (PARQUET and TEXTFILE are).")
    return known[name]


def _default_format(statement: Statement) -> str:
    chosen = statement.operation.options.get("DEFAULT_FILE_FORMAT", "TEXT").upper()
    return "PARQUET" if chosen == "PARQUET" else "TEXTFILE"


def _delimiter(text: str) -> str:
    named = {"\\t": "\t", "\\001": "\x01", "\\u0001": "\x01"}
    if text in named:
        return named[text]
    return chr(int(text)) if text.isdigit() and len(text) > 1 else text


def with_listed_files(table: CatalogObject) -> CatalogObject:
    """The table with the files its directory holds now, those of its partitions by ``p=1/q=a`` directories."""
    base = Path(table.location)
    known = {file.path: file for file in table.files}
    found: list[DataFile] = []
    if not table.partition_columns:
        found = [known.get(str(path), DataFile(str(path))) for path in dml.list_files(base)]
    else:
        depth = len(table.partition_columns)
        for directory in sorted(base.glob("/".join(["*=*"] * depth))):
            partition = dml.partition_of(directory.relative_to(base))
            found += [known.get(str(path), DataFile(str(path), None, partition)) for path in dml.list_files(directory)]
    return replace(table, files=tuple(found))


def _create_as_select(
    statement: Statement, table: CatalogObject, source: exp.Expression, lenient: bool, known: bool
) -> Plan:
    if isinstance(source, exp.Subquery):
        source = source.this
    query = translate(source, statement.scope)
    described = statement.coordinator.engine.describe(query.typed())
    if len(query.labels) == len(described):
        described = [(named or name, kind) for named, (name, kind) in zip(query.labels, described, strict=True)]
    names = [
        name.lower() if re.fullmatch(r"\w+", name) else f"_c{number}" for number, (name, _) in enumerate(described)
    ]
    columns = [(name, str(kind), "") for name, (_, kind) in zip(names, described, strict=True)]
    tail = [column for column in columns if column[0] in table.partition_columns]
    if [column[0] for column in columns[len(columns) - len(tail) :]] != list(table.partition_columns):
        raise analysis_error("Partition columns must be the last ones of the SELECT, in the same order.")
    table = replace(table, columns=tuple(columns))
    expressions = [
        f"CAST(c{number} AS {from_impala(kind).duckdb}) AS {quote(name)}"
        for number, (name, kind, _) in enumerate(columns)
    ]

    def run(operation: Operation) -> Outcome:
        if known and lenient:
            return Outcome([("Inserted 0 row(s)",)])
        query.check_files(statement.coordinator.address)
        files = dml.write(operation, table, query, len(columns), expressions)
        with statement.coordinator.catalog.change() as change:
            if table.key in change.latest:
                for file in files:
                    Path(file.path).unlink(missing_ok=True)
                if not lenient:
                    raise _exists(table.key)
                change.put(change.latest[table.key])
                return Outcome([("Inserted 0 row(s)",)])
            change.put(replace(table, files=tuple(files)))
        rows = sum(file.rows or 0 for file in files)
        return Outcome([(f"Inserted {rows} row(s)",)])

    return Plan("DDL", _SUMMARY, run, changes_catalog=True, files=query.file_count)


def _create_view(statement: Statement, text: str, tree: exp.Create) -> Plan:
    target = tree.this
    name = target.this if isinstance(target, exp.Schema) else target
    key = statement.name(name.db, name.name)
    lenient = bool(tree.args.get("exists"))
    instead = bool(tree.args.get("replace"))
    if key in statement.view and not (lenient or instead):
        raise analysis_error(f"Table already exists: {key}")
    body = re.search(r"(?is)\bas\b\s*(\(?\s*(?:select|with|values)\b.*)$", text)
    if body is None:
        raise syntax_error(text, len(text), "EOF", "AS SELECT")
    view = _view_object(statement, key, body.group(1), target)

    def work(_: Operation, change: Change) -> str | None:
        there = change.latest.get(key)
        if there is not None and not instead:
            if lenient:
                change.put(there)
                return "View already exists."
            raise _exists(key)
        change.put(view)
        return None

    return _changing("View has been created.", work, statement)


def _view_object(statement: Statement, key: str, sql: str, target: exp.Expression) -> CatalogObject:
    query = translate(parse(sql), statement.scope)
    described = statement.coordinator.engine.describe(query.typed())
    names = [name for name, _ in described]
    if len(query.labels) == len(described):
        names = [named or name for named, name in zip(query.labels, names, strict=True)]
    names = [name.lower() if re.fullmatch(r"\w+", name) else f"_c{number}" for number, name in enumerate(names)]
    if isinstance(target, exp.Schema):
        names = [item.name for item in target.expressions]
        if len(names) != len(described):
            raise analysis_error("Column-definition list has a different number of columns than the query returns.")
    columns = tuple((name, str(kind), "") for name, (_, kind) in zip(names, described, strict=True))
    database, short = key.split(".", 1)
    return CatalogObject(database, short, "VIEW", columns=columns, sql=sql, view_database=statement.session.database)


def _drop(statement: Statement, text: str, tree: exp.Drop) -> Plan:
    kind = (tree.args.get("kind") or "").upper()
    if kind not in ("TABLE", "VIEW"):
        raise analysis_error(f"DROP {kind} is not supported by the sandbox.")
    name = (tree.args.get("tables") or [tree.this])[0]  # older sqlglot: this
    database = name.db or statement.session.database
    lenient = bool(tree.args.get("exists"))
    if database not in statement.view and not lenient:
        raise analysis_error(f"Database does not exist: {database}")
    key = f"{database}.{name.name}"
    if not lenient:
        statement.existing(name.db, name.name)
    shown = statement.view.get(key)
    if shown is not None and (shown.kind == "VIEW") != (kind == "VIEW"):
        word = "DROP VIEW not allowed on a table" if kind == "VIEW" else "DROP TABLE not allowed on a view"
        raise analysis_error(f"{word}: {key}")

    def work(_: Operation, change: Change) -> str | None:
        there = change.latest.get(key)
        if there is None:
            # Whoever drops what is gone elsewhere learns at least that it is gone.
            change.drop(key)
            if lenient:
                return f"{kind.capitalize()} does not exist."
            raise server_error(f"Table does not exist: {key}")
        _remove(change, there)
        return None

    return _changing(f"{kind.capitalize()} has been dropped.", work, statement)


def _remove(change: Change, item: CatalogObject) -> None:
    change.drop(item.key)
    if item.kind == "TABLE" and not item.external:
        for file in item.files:
            Path(file.path).unlink(missing_ok=True)
        shutil.rmtree(item.location, ignore_errors=True)


def _truncate(statement: Statement, tree: exp.TruncateTable) -> Plan:
    name = tree.expressions[0]
    lenient = bool(tree.args.get("exists"))
    key = f"{name.db or statement.session.database}.{name.name}"
    if not lenient:
        table = statement.existing(name.db, name.name)
        if table.kind == "VIEW":
            raise analysis_error(f"TRUNCATE TABLE not supported on view: {key}")

    def work(_: Operation, change: Change) -> str | None:
        table = change.latest.get(key)
        if table is None:
            if lenient:
                return "Table does not exist."
            raise server_error(f"Table not found: {key}")
        change.files(key, [], [file.path for file in table.files])
        for file in table.files:
            Path(file.path).unlink(missing_ok=True)
        return None

    return _changing("Table has been truncated.", work, statement)


def _alter(statement: Statement, text: str) -> Plan:
    rename = re.fullmatch(rf"(?is)alter\s+(?:table|view)\s+{_NAME}\s+rename\s+to\s+{_NAME}", text)
    add = re.fullmatch(rf"(?is)alter\s+table\s+{_NAME}\s+add\s+(?:if\s+not\s+exists\s+)?columns?\s*\(?(.*?)\)?", text)
    properties = re.fullmatch(rf"(?is)alter\s+table\s+{_NAME}\s+set\s+tblproperties\s*\((.*)\)", text)
    partition = re.fullmatch(rf"(?is)alter\s+table\s+{_NAME}\s+(?:add|drop|recover)\s.*partition.*", text)
    if rename:
        return _rename(statement, *(part.lower() if part else "" for part in rename.groups()))
    if add and not partition:
        return _add_columns(statement, *add.groups())
    if properties:
        return _set_properties(statement, *properties.groups())
    if re.match(r"(?i)alter\s+(table|view)\b", text):
        raise analysis_error("The sandbox supports RENAME TO, ADD COLUMNS and SET TBLPROPERTIES of ALTER TABLE only.")
    raise syntax_error(text, 6, "IDENTIFIER", "DATABASE, TABLE, VIEW")


def _rename(statement: Statement, database: str, name: str, new_database: str, new_name: str) -> Plan:
    old = statement.existing(database, name)
    new_key = statement.name(new_database, new_name)
    if new_key in statement.view:
        raise analysis_error(f"Table/view already exists: {new_key}")

    def work(_: Operation, change: Change) -> str | None:
        item = change.latest.get(old.key)
        if item is None or new_key in change.latest:
            raise server_error(f"Table {old.key} cannot be renamed to {new_key}: gone, or the new name is taken")
        target_database, target = new_key.split(".", 1)
        change.drop(old.key)
        # The files stay where they are: whoever still knows the old name reads on, as on a file system without a move.
        change.put(replace(item, database=target_database, table=target))
        return None

    return _changing("Renaming was successful.", work, statement)


def _add_columns(statement: Statement, database: str | None, name: str, columns: str) -> Plan:
    table = statement.existing((database or "").lower(), name.lower())
    tree = parse(f"create table t ({columns})")
    new = _columns(tree.this.expressions)
    taken = {column for column, _, _ in table.columns}
    for column, _, _ in new:
        if column in taken:
            raise analysis_error(f"Column already exists: {column}")

    def work(_: Operation, change: Change) -> str | None:
        latest = change.latest[table.key]
        own = [column for column in latest.columns if column[0] not in latest.partition_columns]
        tail = [column for column in latest.columns if column[0] in latest.partition_columns]
        change.put(replace(latest, columns=(*own, *new, *tail)))
        return None

    return _changing("New column(s) have been added to the table.", work, statement)


def _set_properties(statement: Statement, database: str | None, name: str, pairs: str) -> Plan:
    table = statement.existing((database or "").lower(), name.lower())
    new = dict(re.findall(r"['\"]([^'\"]*)['\"]\s*=\s*['\"]([^'\"]*)['\"]", pairs))

    def work(_: Operation, change: Change) -> str | None:
        latest = change.latest[table.key]
        change.put(replace(latest, properties=tuple({**dict(latest.properties), **new}.items())))
        return None

    return _changing("Updated table.", work, statement)


# -- statistics and metadata


def _compute_stats(statement: Statement, text: str) -> Plan:
    match = re.match(rf"(?is)compute\s+(?:incremental\s+)?stats\s+{_NAME}", text)
    if not match:
        raise syntax_error(text, 8, "IDENTIFIER", "INCREMENTAL, STATS")
    table = statement.existing((match.group(1) or "").lower(), match.group(2).lower())
    if table.kind == "VIEW":
        raise analysis_error(f"COMPUTE STATS not supported for view: {table.key}")

    def run(operation: Operation) -> Outcome:
        count = f"SELECT count(*) FROM {file_relation(table)}"  # noqa: S608 (names and files are quoted)
        (rows,) = operation.cursor().execute(count).fetchone() or (0,)
        with statement.coordinator.catalog.change() as change:
            if table.key in change.latest:
                change.put(replace(change.latest[table.key], num_rows=rows))
        partitions = len({file.partition for file in table.files}) or 1
        return Outcome([(f"Updated {partitions} partition(s) and {len(table.columns)} column(s).",)])

    return Plan("DDL", _SUMMARY, run, changes_catalog=True, files=len(table.files))


def _drop_stats(statement: Statement, text: str) -> Plan:
    match = re.match(rf"(?is)drop\s+(?:incremental\s+)?stats\s+{_NAME}", text)
    if not match:
        raise syntax_error(text, 5, "IDENTIFIER", "STATS")
    table = statement.existing((match.group(1) or "").lower(), match.group(2).lower())

    def work(_: Operation, change: Change) -> str | None:
        change.put(replace(change.latest[table.key], num_rows=-1))
        return None

    return _changing("Stats have been dropped.", work, statement)


def _refresh(statement: Statement, text: str) -> Plan:
    catalog = statement.coordinator.catalog
    if re.fullmatch(r"(?is)invalidate\s+metadata", text):

        def everything(_: Operation) -> Outcome:
            catalog.refresh_all()
            return Outcome()

        return Plan("DDL", None, everything)
    match = re.fullmatch(rf"(?is)(refresh|invalidate\s+metadata)\s+{_NAME}(\s+partition\s*\(.*\))?", text)
    if not match:
        raise syntax_error(text, 0, text.split()[0].upper())
    word, database, name, _ = match.groups()
    key = f"{(database or statement.session.database).lower()}.{name.lower()}"
    if word.lower() == "refresh":
        statement.existing((database or "").lower(), name.lower())

    def run(_: Operation) -> Outcome:
        table = catalog.refresh(key)
        if table is None:
            raise server_error(f"TableNotFoundException: Table not found: {key}")
        if table.kind == "TABLE":
            _list_again(statement, key)
        return Outcome()

    return Plan("DDL", None, run, changes_catalog=True)


def _list_again(statement: Statement, key: str) -> None:
    """Files that somebody put into the table's directory, or took away, behind the catalog's back."""
    with statement.coordinator.catalog.change() as change:
        table = change.latest.get(key)
        if table is None:
            return
        listed = with_listed_files(table)
        before, now = {file.path for file in table.files}, {file.path for file in listed.files}
        if before != now:
            change.files(key, [file for file in listed.files if file.path not in before], sorted(before - now))
