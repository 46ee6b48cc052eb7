"""A query over this coordinator's view of the catalog, as a query over the files of its tables.

The view decides which files a query reads. A coordinator that has not heard of the newest INSERT therefore misses its
rows without a word, and one that has not heard of a DROP asks for files that are gone: as on Impala.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from sqlglot import exp  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject
from airflow_provider_impala_lb.sandbox.common.confinement import Confinement
from airflow_provider_impala_lb.sandbox.common.errors import analysis_error
from airflow_provider_impala_lb.sandbox.sql.dialect import label, parse
from airflow_provider_impala_lb.sandbox.sql.table_files import check_files, empty_relation, file_relation
from airflow_provider_impala_lb.sandbox.sql.translation import to_duckdb


@dataclass(frozen=True)
class Scope:
    """What names mean to a statement.

    :ivar database: of names without one.
    :ivar view: what the coordinator shows of the catalog, by key.
    :ivar constants: functions without arguments: DuckDB's expression for each.
    """

    database: str
    view: Mapping[str, CatalogObject]
    constants: dict[str, str]

    def table(self, table: str, database: str = "") -> CatalogObject:
        """The table or view of a name.

        :param table: without its database.
        :param database: empty (default): :attr:`database`.
        :raises Refused: this coordinator does not show it (yet).
        """
        found = self.view.get(f"{database or self.database}.{table}")
        if found is None:
            shown = f"{database}.{table}" if database else table
            raise analysis_error(f"Could not resolve table reference: '{shown}'")
        return found


@dataclass
class Query:
    """A query for DuckDB.

    :ivar sql: DuckDB's text with a name where each table stands.
    :ivar tables: which table each of these names is; default none.
    :ivar labels: the column names as Impala gives them; empty (default) where ``*`` or VALUES leave it to the tables.
    :ivar nulls: positions of columns that are the bare word NULL, and so fit every type; default none.
    """

    sql: str
    tables: dict[str, CatalogObject] = field(default_factory=dict)
    labels: list[str | None] = field(default_factory=list)
    nulls: frozenset[int] = frozenset()

    def typed(self) -> str:
        """The query over empty tables: types and names can be checked without a look at any file."""
        return self._with({name: empty_relation(table) for name, table in self.tables.items()})

    def reading(self) -> str:
        """The query over the files."""
        return self._with({name: file_relation(table) for name, table in self.tables.items()})

    @property
    def file_count(self) -> int:
        """How many files it reads."""
        return sum(len(table.files) for table in self.tables.values())

    def check_files(self, host: str, confinement: Confinement) -> None:
        """Look at each file before it is read.

        :param host: the coordinator's address, for the message.
        :param confinement: which files may be read.
        :raises Refused: a file of a table is gone: the table was dropped or overwritten elsewhere; or it leads out of
            the directories that tables may be in.
        """
        for table in self.tables.values():
            check_files(table, host, confinement)

    def _with(self, relations: dict[str, str]) -> str:
        sql = self.sql
        for name, relation in relations.items():
            sql = sql.replace(name, relation)
        return sql


def translate(tree: exp.Expression, scope: Scope) -> Query:
    """The query for DuckDB.

    :param tree: a SELECT, a set operation or VALUES, as :func:`dialect.parse` gives it; not changed.
    :param scope: what its names mean.
    :raises Refused: AnalysisException; or something that the sandbox has not.
    """
    query = Query("")
    outermost = tree
    while isinstance(outermost, (exp.SetOperation, exp.Subquery)):
        outermost = cast("exp.Expression", outermost.this)
    if isinstance(outermost, exp.Select) and not any(item.is_star for item in outermost.expressions):
        query.labels = [label(item) for item in outermost.expressions]
    query.nulls = _bare_nulls(outermost)
    resolved = _resolve(tree.copy(), scope, query.tables, ())
    query.sql = to_duckdb(resolved, scope.constants)
    return query


def _bare_nulls(tree: exp.Expression) -> frozenset[int]:
    if isinstance(tree, exp.Select):
        lists = [[item.unalias() for item in tree.expressions]]
    elif isinstance(tree, exp.Values):
        lists = [list(row.expressions) if isinstance(row, exp.Tuple) else [row] for row in tree.expressions]
    else:
        return frozenset()
    return frozenset(
        position
        for position in range(len(lists[0]))
        if all(position < len(row) and isinstance(row[position], exp.Null) for row in lists)
    )


def _resolve(
    tree: exp.Expression, scope: Scope, tables: dict[str, CatalogObject], views: tuple[str, ...]
) -> exp.Expression:
    for table in list(tree.find_all(exp.Table)):
        if not isinstance(table.this, exp.Identifier):
            raise analysis_error("Table functions are not supported.")
        if not table.db and _is_cte(table):
            continue
        found = scope.table(table.name, table.db)
        alias = table.alias or table.name
        if found.kind == "VIEW":
            if found.key in views:
                raise analysis_error(f"View {found.key} refers to itself.")
            inner = Scope(found.view_database, scope.view, scope.constants)
            body = _resolve(parse(found.sql), inner, tables, (*views, found.key))
            columns = [exp.to_identifier(name) for name, _, _ in found.columns]
            table.replace(
                exp.Subquery(
                    this=body,
                    alias=exp.TableAlias(this=exp.to_identifier(alias), columns=columns),
                    joins=table.args.get("joins"),
                )
            )
            continue
        # A name that nobody can write: it is found again in DuckDB's text, where a literal might hold it too.
        name = f"__table_{uuid.uuid4().hex}__"
        tables[name] = found
        table.set("this", exp.to_identifier(name))
        table.set("db", None)
        table.set("alias", exp.TableAlias(this=exp.to_identifier(alias)))
    for column in tree.find_all(exp.Column):
        column.set("db", None)  # db.table.column: the table has an alias of its own name now
    return tree


def _is_cte(table: exp.Expression) -> bool:
    """Is this name that of a WITH clause around it (one that stands before the place it is used)?"""
    inside: exp.Expression = table
    around = cast("exp.Expression | None", table.parent)
    while around is not None:
        clause = around.args.get("with_") or around.args.get("with")
        if clause is not None and clause is not inside:
            if any(each.alias == table.name for each in clause.expressions):
                return True
        elif isinstance(around, exp.With):
            before = around.expressions[: [each is inside for each in around.expressions].index(True)]
            if any(each.alias == table.name for each in before):
                return True
        inside, around = around, cast("exp.Expression | None", around.parent)
    return False
