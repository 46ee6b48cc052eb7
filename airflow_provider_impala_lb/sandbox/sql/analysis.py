"""What the analysis of a statement may know and use, and what the names in the statement mean."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Protocol

from airflow_provider_impala_lb.sandbox.common import query_options
from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject
from airflow_provider_impala_lb.sandbox.common.confinement import Confinement
from airflow_provider_impala_lb.sandbox.common.errors import analysis_error
from airflow_provider_impala_lb.sandbox.common.metadata_lag import CoordinatorCatalog
from airflow_provider_impala_lb.sandbox.common.versions import Behaviour
from airflow_provider_impala_lb.sandbox.sql.column_types import text_literal
from airflow_provider_impala_lb.sandbox.sql.engine import Engine
from airflow_provider_impala_lb.sandbox.sql.query import Scope


class Node(Protocol):
    """What a statement may use of the coordinator it came to (`coordinator/coordinator.py` implements it)."""

    @property
    def address(self) -> str:
        """``host:port`` of its HiveServer2 port."""

    @property
    def version(self) -> str:
        """What ``version()`` gives."""

    @property
    def warehouse(self) -> Path:
        """The directory of the tables."""

    @property
    def catalog(self) -> CoordinatorCatalog:
        """What this coordinator shows of the catalog."""

    @property
    def engine(self) -> Engine:
        """Runs the queries."""

    @property
    def confinement(self) -> Confinement:
        """Which files the statement may touch."""

    def begin_shutdown(self, deadline: float | None = None) -> str:
        """Begin the graceful shutdown.

        :param deadline: seconds from now until the end at the latest; None (default): the flag's.
        :returns: the status line that the client gets.
        """

    @property
    def behaviour(self) -> Behaviour:
        """Of Impala's version."""

    def kill_query(self, query_id: str, user: str) -> None:
        """Cancel a statement of any coordinator, and unregister it.

        :param query_id: as printed.
        :param user: who asks.
        :raises Refused: no coordinator has it, it is somebody else's, or it cannot be killed yet.
        """


class SessionState(Protocol):
    """What a statement may know and change of its session (`coordinator/session.py` implements it).

    :ivar database: the current database.
    """

    database: str

    @property
    def id(self) -> str:
        """As printed."""

    @property
    def user(self) -> str:
        """Whose session it is."""

    def effective_options(self) -> dict[str, str]:
        """All query options that have a value, those that were not set by their defaults."""

    def set_option(self, name: str, value: str) -> None:
        """Set a query option from the next statement on.

        :param name: in capitals.
        :param value: as it is kept.
        """

    def clear_options(self) -> None:
        """Give every query option its default again."""


@dataclass
class Statement:
    """A statement while it is analysed.

    :ivar node: the coordinator it came to.
    :ivar session: whose it is.
    :ivar query_id: as printed.
    :ivar options: the query options it runs with.
    :ivar text: without comments, hints and the closing ``;``.
    """

    node: Node
    session: SessionState
    query_id: str
    options: Mapping[str, str]
    text: str

    @cached_property
    def view(self) -> dict[str, CatalogObject]:
        """What the coordinator shows of the catalog, fetched once: it must not change within a statement."""
        return self.node.catalog.view()

    @cached_property
    def scope(self) -> Scope:
        """What names mean in this statement, the functions without arguments (``now()``, ``user()``) included."""
        now = datetime.now()
        utc = datetime.fromtimestamp(now.timestamp(), timezone.utc)
        seconds = int(now.timestamp())
        user = text_literal(self.session.user)
        constants = {
            "now": f"TIMESTAMP '{now}'",
            "utc_timestamp": f"TIMESTAMP '{utc.replace(tzinfo=None)}'",
            "unix_timestamp": f"CAST({seconds} AS BIGINT)",
            "effective_user": user,
            "user": user,
            "logged_in_user": user,
            "session_user": user,
            "current_database": text_literal(self.session.database),
            "version": text_literal(self.node.version),
            "pid": str(os.getpid()),
            "current_session": text_literal(self.session.id),
            "coordinator": text_literal(self.node.address.rsplit(":", 1)[0]),
            "query": text_literal(self.query_id),
        }
        if query_options.is_on(self.options, "UTF8_MODE"):
            constants["utf8_mode"] = "true"
        return Scope(self.session.database, self.view, constants)

    def database(self, name: str) -> str:
        """The name of a database, checked.

        :param name: in lower case.
        :raises Refused: this coordinator does not show it.
        """
        if name not in self.view:
            raise analysis_error(f"Database does not exist: {name}")
        return name

    def name(self, database: str, table: str) -> str:
        """The key of a table name as written, its database checked.

        :param database: empty: the session's.
        :param table: the name without its database.
        :raises Refused: no name for a table, which is a directory's, too: ``../x`` in backquotes would lead out.
        """
        if not re.fullmatch(r"\w+", table):
            raise analysis_error(f"Invalid table/view name: {table}")
        return f"{self.database(database or self.session.database)}.{table}"

    def existing(self, database: str, table: str) -> CatalogObject:
        """A table or view that this coordinator shows.

        :param database: empty: the session's.
        :param table: the name without its database.
        :raises Refused: no such table or view here.
        """
        key = self.name(database, table)
        if key not in self.view:
            raise analysis_error(f"Table does not exist: {key}")
        return self.view[key]

    def directory(self, database: str, table: str = "") -> Path:
        """Where a database or a table of the warehouse has its files.

        :param database: its name.
        :param table: the name without its database; empty (default): the database's own directory.
        """
        base = self.node.warehouse
        home = base if database == "default" else base / f"{database}.db"
        return home / table if table else home
