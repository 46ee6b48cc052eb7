"""What the analysis of a statement may know and use."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.sandbox.common import query_options as options
from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject
from airflow_provider_impala_lb.sandbox.common.errors import analysis_error
from airflow_provider_impala_lb.sandbox.sql.query import Scope, text_literal

if TYPE_CHECKING:
    from airflow_provider_impala_lb.sandbox.server.coordinator import Coordinator
    from airflow_provider_impala_lb.sandbox.server.operation import Operation
    from airflow_provider_impala_lb.sandbox.server.session import Session


@dataclass
class Statement:
    """:param text: without comments, hints and the closing ``;``."""

    coordinator: Coordinator
    session: Session
    operation: Operation
    text: str

    @cached_property
    def view(self) -> dict[str, CatalogObject]:
        """One view for the whole statement: it must not change between two looks."""
        return self.coordinator.catalog.view()

    @cached_property
    def scope(self) -> Scope:
        from airflow_provider_impala_lb.sandbox.server.coordinator import VERSION

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
            "version": text_literal(VERSION),
            "pid": str(os.getpid()),
            "current_session": text_literal(self.session.id),
            "coordinator": text_literal(self.coordinator.address.rsplit(":", 1)[0]),
            "query": text_literal(self.operation.id),
        }
        if options.is_on(self.operation.options, "UTF8_MODE"):
            constants["utf8_mode"] = "true"
        return Scope(self.session.database, self.view, constants)

    def database(self, name: str) -> str:
        """:raises Refused: this coordinator does not know it."""
        if name not in self.view:
            raise analysis_error(f"Database does not exist: {name}")
        return name

    def name(self, database: str, table: str) -> str:
        """The key of a table name as written, its database checked.

        :raises Refused: no name for a table, which is a directory's, too: ``../x`` in backquotes would lead out.
        """
        if not re.fullmatch(r"\w+", table):
            raise analysis_error(f"Invalid table/view name: {table}")
        return f"{self.database(database or self.session.database)}.{table}"

    def existing(self, database: str, table: str) -> CatalogObject:
        """:raises Refused: no such table or view here."""
        key = self.name(database, table)
        if key not in self.view:
            raise analysis_error(f"Table does not exist: {key}")
        return self.view[key]

    def directory(self, database: str, table: str = "") -> Path:
        """Where a database or a table of the warehouse has its files."""
        base = self.coordinator.warehouse
        home = base if database == "default" else base / f"{database}.db"
        return home / table if table else home
