"""Calls to the catalog service that outlive their coordinator: in Impala it is a process of its own, and goes on.

Here the coordinator does the work itself. So it leaves a note of each DDL while that is with the "catalog service", and
if its process dies, another coordinator of the cluster (or the same, started again) does what the note says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import duckdb  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.catalog import CALLS, Change
from airflow_provider_impala_lb.sandbox.common.confinement import Confinement
from airflow_provider_impala_lb.sandbox.common.errors import Refused, StatementCancelled
from airflow_provider_impala_lb.sandbox.common.metadata_lag import CoordinatorCatalog
from airflow_provider_impala_lb.sandbox.common.private_files import make_private, write_private
from airflow_provider_impala_lb.sandbox.common.switches import Switches
from airflow_provider_impala_lb.sandbox.common.versions import Behaviour
from airflow_provider_impala_lb.sandbox.sql.analysis import Node, SessionState, Statement
from airflow_provider_impala_lb.sandbox.sql.engine import Engine
from airflow_provider_impala_lb.sandbox.sql.lexer import statement
from airflow_provider_impala_lb.sandbox.sql.plan import Plan, Row
from airflow_provider_impala_lb.sandbox.sql.planner import plan


@dataclass(frozen=True)
class CatalogCall:
    """One DDL that is with the catalog service.

    :ivar query_id: as printed.
    :ivar sql: as received.
    :ivar session: its session's id, as printed.
    :ivar user: whose it is.
    :ivar database: the session's.
    :ivar options: query options.
    :ivar switches: directory of its coordinator's switches: what holds it there goes on holding it.
    :ivar pid: of its coordinator.
    """

    query_id: str
    sql: str
    session: str
    user: str
    database: str
    options: Mapping[str, str]
    switches: str
    pid: int

    @property
    def is_orphaned(self) -> bool:
        """Is its coordinator dead?"""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    @property
    def is_held(self) -> bool:
        """Does a test hold it?"""
        found = Switches(Path(self.switches)).at("catalog", self.sql)
        return any(setting.action == "hold" for _, setting in found)


class Caller(Protocol):
    """What a note takes from a statement (`coordinator/operation.py` implements it).

    :ivar id: as printed.
    :ivar sql: as received.
    :ivar database: its session's when it came.
    :ivar plan: None until it is planned.
    """

    id: str
    sql: str
    database: str
    plan: Plan | None

    @property
    def session(self) -> SessionState:
        """Whose it is."""

    @property
    def options(self) -> Mapping[str, str]:
        """Query options."""

    @property
    def has_coordinator(self) -> bool:
        """Was it admitted?"""


class CatalogCalls:
    """The notes of a cluster.

    :param directory: the cluster's.
    :param switches: directory of this coordinator's switches.
    """

    def __init__(self, directory: Path, switches: Path) -> None:
        self._directory, self._switches = directory, switches
        self._notes = directory / CALLS

    @contextmanager
    def noted(self, caller: Caller) -> Iterator[None]:
        """While this goes on, DDL is done by another if this process dies; what DML would have told the catalog is
        lost.

        :param caller: the statement.
        """
        plan = caller.plan
        if plan is None or plan.kind != "DDL" or plan.child_queries or caller.has_coordinator:
            yield
            return
        owner, text, options = caller.session, caller.sql, dict(caller.options)
        call = CatalogCall(
            caller.id, text, owner.id, owner.user, caller.database, options, str(self._switches), os.getpid()
        )
        note = make_private(self._notes) / f"{call.query_id.replace(':', '-')}.json"
        new = note.with_suffix(".new")
        write_private(new, json.dumps(asdict(call)))
        os.replace(new, note)
        try:
            yield
        finally:
            note.unlink(missing_ok=True)

    def take_orphaned(self) -> list[CatalogCall]:
        """The calls whose coordinator is dead and that nothing holds: they are the caller's to do."""
        found = []
        for note in self._notes.glob("*.json"):
            try:
                call = CatalogCall(**json.loads(note.read_text()))
                if call.is_orphaned and not call.is_held:
                    os.rename(note, note.with_suffix(".taken"))
                    found.append(call)
            except FileNotFoundError:
                continue  # it is done, or another has taken it
        return found

    def do(self, call: CatalogCall, node: Node) -> bool:
        """Do what the catalog service does of it.

        :param call: it.
        :param node: a coordinator that lives; what it shows is not changed.
        :returns: whether that is all of the statement. What follows the call, as the INSERT part of CREATE TABLE AS
            SELECT, died with the coordinator.
        :raises Refused: the catalog service refuses it.
        """
        service = _CatalogService(node, self._directory)
        analysed = Statement(service, _Session(call), call.query_id, call.options, statement(call.sql))
        try:
            plan(analysed).run(_Call(call.query_id, service))
        except StatementCancelled:
            return False
        return True


class _CatalogService:
    """The node for which an orphaned call is planned: it knows the catalog as it is now."""

    def __init__(self, node: Node, directory: Path) -> None:
        self._node = node
        self.catalog = CoordinatorCatalog(directory)
        self.catalog.refresh_all()

    address = property(lambda self: str(self._node.address))
    version = property(lambda self: str(self._node.version))

    @property
    def warehouse(self) -> Path:
        return self._node.warehouse

    @property
    def engine(self) -> Engine:
        return self._node.engine

    @property
    def confinement(self) -> Confinement:
        return self._node.confinement

    @property
    def behaviour(self) -> Behaviour:
        return self._node.behaviour

    def begin_shutdown(self, deadline: float | None = None) -> str:
        raise Refused("Not the catalog service's.")

    def kill_query(self, query_id: str, user: str) -> None:
        raise Refused("Not the catalog service's.")


class _Session:
    def __init__(self, call: CatalogCall) -> None:
        self.database, self.id, self.user = call.database, call.session, call.user
        self._options = dict(call.options)

    def effective_options(self) -> dict[str, str]:
        return self._options

    def set_option(self, name: str, value: str) -> None:
        raise Refused("Not the catalog service's.")

    def clear_options(self) -> None:
        raise Refused("Not the catalog service's.")


class _Call:
    """The run of an orphaned call: it ends where the coordinator's part would begin."""

    def __init__(self, query_id: str, service: _CatalogService) -> None:
        self.id, self._service = query_id, service

    def cursor(self, sql: str) -> duckdb.DuckDBPyConnection:
        raise StatementCancelled()

    def check_cancelled(self) -> None:
        raise StatementCancelled()

    def reach(self, point: str) -> None:
        raise StatementCancelled()

    def admit(self) -> None:
        raise StatementCancelled()

    def begin_finalising(self) -> None:
        raise StatementCancelled()

    def child_query(self, sql: str) -> list[Row]:
        raise StatementCancelled()

    def catalog_change(self) -> AbstractContextManager[Change]:
        return self._service.catalog.change()
