"""A DB-API hook for a cluster of Impala coordinators: each run, and each connection, is on one picked node."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import msgspec
from airflow.providers.common.sql.hooks.handlers import return_single_query_results
from airflow.providers.common.sql.hooks.sql import DbApiHook

from airflow_provider_impala_lb.balancer import Balancer, open_journals
from airflow_provider_impala_lb.core.journals import Journals
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError, ScriptError, StatementFailed
from airflow_provider_impala_lb.hooks.connection import config_of, web_password_of
from airflow_provider_impala_lb.hooks.sticking import Stuck, find, running_task
from airflow_provider_impala_lb.impala.barrier import MOVE_SECONDS, Upstream
from airflow_provider_impala_lb.impala.sql.splitter import Statement, split

if TYPE_CHECKING:
    from logging import Logger

    from airflow_provider_impala_lb.impala.connection import Connection as BalancedConnection
    from airflow_provider_impala_lb.impala.run import ScriptRun
    from airflow_provider_impala_lb.impala.work import ScriptDone

T = TypeVar("T")


class ImpalaLBHook(DbApiHook):
    """Every common-sql operator, sensor, check and transfer works on such a connection, balanced.

    What comes after something that the hook itself has changed within the last 10 s is on the same node.

    :param impala_lb_conn_id: a connection of type ``impala_lb``, or a plain ``impala`` one (a cluster of one).
    :param schema: the database, instead of the connection's.
    :param stick_to: run where that task ran: its id, or a ``host:port``, as a rule from its XCom ``impala_host``. Where
        that node takes no more it is another one, which first hears of what the task wrote (by its id; else it waits
        until 10 s after now). An upstream that has not finished, or that nothing makes the running task wait for, is an
        error; one that has left no host (it was skipped, say) means an ordinary pick.
    :param session_key: tasks with the same key run on one node.
    :param kwargs: the keys of the connection's extra, which common-sql's operators pass, are taken and ignored.
    :raises ConfigError: another parameter.
    """

    conn_name_attr = "impala_lb_conn_id"
    default_conn_name = "impala_lb_default"
    conn_type = "impala_lb"
    hook_name = "Impala (balanced)"
    supports_autocommit = False
    strip_semicolon = True

    def __init__(
        self,
        *args: Any,
        schema: str | None = None,
        stick_to: Any = None,
        session_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, schema=schema, **kwargs)
        unknown = kwargs.keys() - {self.conn_name_attr, "connection"}
        if unknown and (unknown := unknown - self.connection_extra.keys()):
            raise ConfigError(
                f"connection {self.get_conn_id()}: hook_params: {', '.join(sorted(unknown))} is unknown; allowed: "
                "schema, session_key, stick_to"
            )
        self.schema, self.stick_to, self.session_key = schema, stick_to, session_key
        self._found: Stuck | None = None
        self._changed: Upstream | None = None
        self.host: str | None = None
        """The node of the last run, ``host:port``."""
        self.query_ids: list[str] = []
        """Query ids of the last run, in order."""

    @cached_property
    def balancer(self) -> Balancer:
        """:raises ConfigError: names the connection, the key, the value, and what is allowed."""
        connection = self.connection
        return Balancer(config_of(connection), password=connection.password, web_password=web_password_of(connection))

    @property
    def journals(self) -> Journals | None:
        """Where the journals of resumable scripts are; None: the cluster shares neither a lock file nor a Redis."""
        return open_journals(self.balancer.config)

    def get_conn(self) -> BalancedConnection:
        """A DB-API connection to a picked node; ``close()`` ends its lease.

        :raises NoNodeAvailable: no coordinator took it; the error says why for each.
        """
        stuck = self._stuck()
        return self.balancer.connect(
            owner(tags_from_environment()),
            database=self.schema,
            session_key=self.session_key,
            prefer=stuck.host,
            upstream=stuck.upstream,
        )

    def _stuck(self) -> Stuck:
        """The node to be on, and what was changed there: by this hook itself just now, or by the task to stick to."""
        if self._changed is not None and time.time() - (self._changed.ended or 0.0) < MOVE_SECONDS:
            return Stuck(self._changed.host, self._changed)
        if self.stick_to is None:
            return Stuck()
        if self._found is None:
            self._found = find(self.stick_to, running_task(), cast("Logger", self.log))
        return self._found

    def _note(self, left: Upstream, node: str) -> None:
        if left.written or left.dropped or not left.complete:
            self._changed = msgspec.structs.replace(left, host=node, ended=time.time())

    @overload
    def run(
        self,
        sql: str | Iterable[str],
        autocommit: bool = ...,
        parameters: Iterable[Any] | Mapping[str, Any] | None = ...,
        handler: None = ...,
        split_statements: bool = ...,
        return_last: bool = ...,
    ) -> None: ...

    @overload
    def run(
        self,
        sql: str | Iterable[str],
        autocommit: bool = ...,
        parameters: Iterable[Any] | Mapping[str, Any] | None = ...,
        handler: Callable[[Any], T] = ...,
        split_statements: bool = ...,
        return_last: bool = ...,
    ) -> Any: ...

    def run(
        self,
        sql: str | Iterable[str],
        autocommit: bool = False,
        parameters: Iterable[Any] | Mapping[str, Any] | None = None,
        handler: Callable[[Any], T] | None = None,
        split_statements: bool = True,
        return_last: bool = True,
    ) -> Any:
        """Run a script, or a list of them, on one node in one session. Parameters and results as in common-sql.

        :param split_statements: cut by Impala's own lexer rules, hints kept; False sends each text as it is.
        :param autocommit: ignored: Impala has no transactions, each statement is done when it has ended.
        :raises ScriptError: cannot be split, or a parameter does not fit; nothing was run.
        :raises StatementFailed: which statement, where, whether it ran, and what is done.
        :raises NoNodeAvailable: no coordinator took it; nothing was run.
        """
        stuck = self._stuck()
        run = self.script_run(
            statements(sql, split_statements=split_statements),
            parameters=parameters,
            handler=handler,
            tags=tags_from_environment(),
            session_key=self.session_key,
            prefer=stuck.host,
            upstream=stuck.upstream,
        )
        done = run.run()
        self._note(done.left, done.node)
        return self.results(done, sql, split_statements, return_last)

    def script_run(self, script: list[Statement], *, tags: Mapping[str, str], **options: Any) -> ScriptRun:
        """A run of ``script`` on this connection. Options as :class:`~..impala.run.ScriptRun`; not started yet."""
        from airflow_provider_impala_lb.impala.run import ScriptRun

        options.setdefault("database", self.schema)
        if isinstance(options.get("parameters"), Iterable) and not isinstance(options["parameters"], (Mapping, str)):
            options["parameters"] = list(options["parameters"])
        return ScriptRun(self.balancer, script, owner=owner(tags), tags=tags, logger=self.log, **options)

    def end_journal(self, owner: str, epoch: int) -> None:
        """Note that a script, which a trigger has run to its end under this epoch, has been taken note of."""
        from airflow_provider_impala_lb.impala.journal import finish

        journals = self.journals
        if journals is not None:
            finish(journals, owner, epoch)

    @staticmethod
    def pack(script: list[Statement], parameters: Any) -> str:
        """A script for a trigger's arguments, with its parameters bound."""
        from airflow_provider_impala_lb.impala.handover import pack_script

        return pack_script(script, _texts(script, parameters))

    def results(self, done: ScriptDone, sql: Any, split_statements: bool | None, return_last: bool) -> Any:
        """What common-sql's ``run`` would return for these results; sets ``host``, ``query_ids``, ``descriptions``."""
        self.host = done.node
        self.query_ids = [statement.query_id for statement in done.statements]
        if not done.results:
            self.descriptions = []
            return None
        results = [self._make_common_data_structure(result) for result in done.results]
        if return_single_query_results(sql, return_last, split_statements):
            self.descriptions = [done.descriptions[-1]]
            return results[-1]
        self.descriptions = done.descriptions
        return results

    @staticmethod
    def split_sql_string(sql: str, strip_semicolon: bool = False) -> list[str]:
        """The statements of a script, by Impala's lexer rules; never with a ``;``."""
        return [statement.sql for statement in split(sql)]

    def insert_rows(
        self,
        table: str,
        rows: Iterable[Iterable[Any]],
        target_fields: Iterable[str] | None = None,
        commit_every: int = 1000,
        replace: bool = False,
        **_: Any,
    ) -> None:
        """Insert rows with many to a statement: on Impala each INSERT writes a file of its own.

        :param commit_every: rows to a statement; 0 for all in one.
        :param replace: must be False: Impala's INSERT OVERWRITE replaces the whole table, not rows.
        :raises StatementFailed: which rows failed, and which are in the table already.
        """
        from airflow_provider_impala_lb.impala.connection import bind

        if replace:
            raise ValueError("replace=True: Impala has no REPLACE; INSERT OVERWRITE would replace the whole table")
        fields = f" ({', '.join(target_fields)})" if target_fields else ""
        everything = [tuple(row) for row in rows]
        size = commit_every or len(everything) or 1
        starts = range(0, len(everything), size)
        done: list[str] = []
        stuck = self._stuck()
        with self.get_conn() as connection, connection.cursor() as cursor:
            for number, start in enumerate(starts, 1):
                chunk = everything[start : start + size]
                values = ", ".join(bind(f"({', '.join(['%s'] * len(row))})", list(row)) for row in chunk)
                try:
                    cursor.execute(f"INSERT INTO {table}{fields} VALUES {values}")  # noqa: S608  values are escaped
                except StatementFailed as error:
                    # The cursor knows of one statement only; what is in the table by now must be said.
                    raise StatementFailed(
                        error.reason,
                        number=number,
                        total=len(starts),
                        line=1,
                        node=error.node,
                        query_id=error.query_id,
                        outcome=error.outcome,
                        sql=f"INSERT INTO {table}{fields}, rows {start + 1} to {start + len(chunk)}",
                        done=done,
                    ) from error
                done.append(f"{number} (rows {start + 1} to {start + len(chunk)}, query {cursor.query_id})")
                self.log.info("Inserted %d of %d rows into %s", start + len(chunk), len(everything), table)
            if done:
                database = self.schema or self.balancer.config.session.database or "default"
                name = table if "." in table else f"{database}.{table}"
                left = Upstream.of({"written": [name.replace("`", "")], "complete": True})
                before = [stuck.upstream or Upstream(host=stuck.host)] if stuck.host else []
                self._note(left.after(before), connection.pick.node)

    def test_connection(self) -> tuple[bool, str]:  # type: ignore[override]  # its own returns one too
        """Open a session on every coordinator. True only if all answer; the text says what each one said."""
        try:
            balancer = self.balancer
        except ImpalaLBError as error:
            return False, str(error)
        said = {}
        for address in balancer.config.addresses:
            try:
                balancer.open_session(address, database=self.schema).close()
                said[address] = "ok"
            except ImpalaLBError as error:
                said[address] = str(error)
        good = all(answer == "ok" for answer in said.values())
        return good, "; ".join(f"{address}: {answer}" for address, answer in said.items())

    def get_openlineage_default_schema(self) -> str | None:
        return self.schema or self.connection.schema or "default"

    # Airflow 3.2 and later read the form from get_provider_info, older ones call these two.

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from flask_babel import lazy_gettext
        from wtforms import StringField

        from airflow_provider_impala_lb.get_provider_info import CONNECTION_FIELDS

        return {
            name: StringField(
                lazy_gettext(field["label"]), widget=BS3TextFieldWidget(), description=field["description"]
            )
            for name, field in CONNECTION_FIELDS.items()
        }

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        from airflow_provider_impala_lb.get_provider_info import FIELD_BEHAVIOUR

        return {key.replace("-", "_"): value for key, value in FIELD_BEHAVIOUR.items()}


def statements(sql: str | Iterable[str], *, split_statements: bool = True, variables: Any = None) -> list[Statement]:
    """The statements of a script or of several. :raises ScriptError: unsplittable, or nothing to run."""
    texts = [sql] if isinstance(sql, str) else list(sql)
    found = []
    for index, text in enumerate(texts):
        if split_statements:
            found += split(text, variables, name="script" if isinstance(sql, str) else f"sql[{index}]")
        elif text.strip():
            found.append(Statement(line=1, sql=text.strip().removesuffix(";")))
    if not found:
        raise ScriptError("holds no statement", line=1)
    return found


def _texts(script: list[Statement], parameters: Any) -> list[str]:
    from airflow_provider_impala_lb.impala.connection import bind

    if isinstance(parameters, Iterable) and not isinstance(parameters, (Mapping, str)):
        parameters = list(parameters)
    return [bind(statement.sql, parameters, line=statement.line) for statement in script]


def owner(tags: Mapping[str, str]) -> str:
    """Whom a lease belongs to: ``dag/run/task[map index]``, as far as known."""
    known = [tags[key] for key in ("dag", "run", "task") if tags.get(key)]
    return "/".join(known) + (f"[{tags['map']}]" if tags.get("map") else "")


def tags_from_environment() -> dict[str, str]:
    """The running task, from the variables that Airflow exports for it; for hooks used outside our operator."""
    names = {"dag": "DAG_ID", "task": "TASK_ID", "run": "DAG_RUN_ID", "try": "TRY_NUMBER"}
    found = {tag: os.environ.get(f"AIRFLOW_CTX_{name}", "") for tag, name in names.items()}
    return {tag: value for tag, value in found.items() if value}
