"""A DB-API hook for a cluster of Impala coordinators: each run, and each connection, is on one picked node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import msgspec
from airflow.providers.common.sql.hooks.handlers import return_single_query_results
from airflow.providers.common.sql.hooks.sql import DbApiHook

from airflow_provider_impala_lb.balancer import Balancer
from airflow_provider_impala_lb.core.ports import JournalStore
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError, ScriptError, StatementFailed
from airflow_provider_impala_lb.hooks import task_identity
from airflow_provider_impala_lb.hooks.airflow_connection import config_of, seal_key_of, web_password_of
from airflow_provider_impala_lb.hooks.earlier_attempts import end_earlier_attempts
from airflow_provider_impala_lb.hooks.killed_task import end_when_killed
from airflow_provider_impala_lb.hooks.resolve_stick_to import StickTo, StickyHost, resolve, running_task
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity
from airflow_provider_impala_lb.impala.script.options import ProcessOptions, RunListener, RunOptions
from airflow_provider_impala_lb.impala.script.plan import ScriptPlan
from airflow_provider_impala_lb.impala.script.upstream import Upstream
from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.sql.splitter import Statement, is_blank, split
from airflow_provider_impala_lb.stores.factory import open_journals

if TYPE_CHECKING:
    from logging import Logger

    from airflow_provider_impala_lb.hooks.dialect import ImpalaDialect
    from airflow_provider_impala_lb.impala.dbapi import Connection as BalancedConnection
    from airflow_provider_impala_lb.impala.previous.late_leftovers import LateLeftovers
    from airflow_provider_impala_lb.impala.script.record import ScriptDone
    from airflow_provider_impala_lb.impala.script.run import ScriptRun

T = TypeVar("T")


class ImpalaLBHook(DbApiHook):
    """Every common-sql operator, sensor, check and transfer works on such a connection, balanced.

    What comes after something that the hook itself has changed within the last 10 s is on the same node.

    :param impala_lb_conn_id: a connection of type ``impala_lb``, or a plain ``impala`` one (a cluster of one); default
        ``impala_lb_default``.
    :param args: the connection's id may also be given by its place: ``ImpalaLBHook("warehouse")``.
    :param schema: the database, instead of the connection's; default None: that one.
    :param stick_to: run where that task ran: its id, or a ``host:port``, as a rule from its XCom ``impala_host``. Where
        that node takes no more it is another one, which first hears of what the task wrote (by its id; else it waits
        until 10 s after now). An upstream that has not finished, or that nothing makes the running task wait for, is an
        error; one that has left no host (it was skipped, say) means an ordinary pick. Default None: an ordinary pick.
    :param session_key: tasks with the same key run on one node; default None: no key.
    :param kwargs: the keys of the connection's extra, which common-sql's operators pass, are taken and ignored.
    :ivar host: the node of the last run, ``host:port``; None before the first one.
    :ivar query_ids: query ids of the last run, in order.
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
        self.schema, self.stick_to = schema, stick_to
        self.session_key = None if session_key is None else str(session_key)  # a native template may give a number
        self._resolved: StickyHost | None = None
        self._changed: Upstream | None = None
        self._has_begun = False
        self._leftovers: LateLeftovers | None = None
        self.host: str | None = None
        self.query_ids: list[str] = []

    @cached_property
    def balancer(self) -> Balancer:
        """The balancer of the connection.

        :raises ConfigError: names the connection, the key, the value, and what is allowed.
        """
        connection = self.connection
        return Balancer(
            config_of(connection),
            password=connection.password,
            web_password=web_password_of(connection),
            seal_key=seal_key_of(connection),
            options=("--conn-id", str(connection.conn_id)),
        )

    @property
    def journals(self) -> JournalStore | None:
        """Where the journals of resumable scripts are; None: the cluster shares neither a lock file nor a Redis."""
        return open_journals(self.balancer.config)

    def get_conn(self) -> BalancedConnection:
        """A DB-API connection to a picked node; ``close()`` ends its lease.

        :raises NoNodeAvailable: no coordinator took it; the error says why for each.
        :raises ConfigError: the configuration or the login is wrong.
        """
        from airflow_provider_impala_lb.impala.dbapi import ConnectOptions, connect

        sticky = self._sticky_host()
        identity = self._begin()
        options = ConnectOptions(
            owner=self.balancer.config.owner_of(identity.owner),
            database=self.schema,
            session_key=self.session_key,
            prefer=sticky.host,
            upstream=sticky.upstream,
            attempt=identity.attempt,
            tags=identity.tags,
            leftovers=self._leftovers,
        )
        connection = connect(self.balancer.cluster, self.balancer.sessions, options)
        end_when_killed(connection)
        return connection

    def _begin(self) -> RunIdentity:
        """Who runs what comes next; what an earlier attempt of the same task has left running has ended by then."""
        identity = task_identity.identity(running_task())
        if not self._has_begun:
            self._leftovers = end_earlier_attempts(self.balancer, identity, cast("Logger", self.log))
            self._has_begun = True
        return identity

    def _sticky_host(self) -> StickyHost:
        """The node to be on, and what was changed there: by this hook itself just now, or by the task to stick to."""
        if self._changed is not None:
            # Here: the sessions that it makes up to date are a third of the time that a DAG file's import takes.
            from airflow_provider_impala_lb.impala.script.metadata_sync import MOVE_SECONDS

            if time.time() - (self._changed.ended or 0.0) < MOVE_SECONDS:
                return StickyHost(self._changed.host, self._changed)
        if self.stick_to is None:
            return StickyHost()
        if self._resolved is None:
            self._resolved = resolve(StickTo(self.stick_to), running_task(), cast("Logger", self.log))
        return self._resolved

    def _note_changes(self, changed: Upstream, node: str) -> None:
        if changed.written or changed.dropped or not changed.complete:
            self._changed = msgspec.structs.replace(changed, host=node, ended=time.time())

    @cached_property
    def dialect_name(self) -> str:
        """``default``: no dialect of SQLAlchemy's."""
        return "default"

    @cached_property
    def dialect(self) -> ImpalaDialect:
        """By which common-sql finds out a table's columns."""
        from airflow_provider_impala_lb.hooks.dialect import ImpalaDialect

        return ImpalaDialect(self)

    def get_table_schema(self, table_name: str, schema: str | None = None) -> list[dict[str, str]]:
        """The columns of a table, by DESCRIBE.

        :param table_name: ``t`` or ``db.t``, either part maybe in backticks.
        :param schema: its database; None: the one that ``table_name`` names, or the session's.
        :returns: ``name`` and ``type`` of each, partition columns last.
        :raises ScriptError: a name is none.
        :raises StatementFailed: the node does not know the table.
        """
        return self.dialect.columns(table_name, schema)

    @property
    def sqlalchemy_url(self) -> Any:
        """Nothing: there is none.

        :raises ConfigError: always.
        """
        raise self._no_sqlalchemy()

    def get_uri(self) -> str:
        """Nothing: common-sql takes it for a URL of SQLAlchemy's.

        :raises ConfigError: always.
        """
        raise self._no_sqlalchemy()

    def get_sqlalchemy_engine(self, engine_kwargs: Any = None) -> Any:
        """Nothing: there is none.

        :param engine_kwargs: of no effect.
        :raises ConfigError: always.
        """
        raise self._no_sqlalchemy()

    def _no_sqlalchemy(self) -> ConfigError:
        return ConfigError(
            f"connection {self.get_conn_id()}: no SQLAlchemy dialect here, so it has no SQLAlchemy URL, engine or "
            "inspector. hook.get_conn() is a DB-API connection; hook.get_records(), get_df() and get_table_schema() "
            "need no SQLAlchemy"
        )

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

        :param sql: a script, or several.
        :param autocommit: of no effect: Impala has no transactions, each statement is done when it has ended.
        :param parameters: put into the statements, see :mod:`..impala.sql.parameters`; default None: none.
        :param handler: called with the cursor after each statement; default None: rows are not fetched.
        :param split_statements: cut by Impala's own lexer rules, hints kept; False sends each text as it is. Default
            True.
        :param return_last: of one script, return the last result only; default True.
        :returns: the results of the handler, as in common-sql; None without one.
        :raises ScriptError: cannot be split, or a parameter does not fit; nothing was run.
        :raises StatementFailed: which statement, where, whether it ran, and what is done.
        :raises NoNodeAvailable: no coordinator took it; nothing was run.
        """
        sticky = self._sticky_host()
        options = RunOptions(
            session_key=self.session_key,
            prefer=sticky.host,
            upstream=sticky.upstream,
            database=self.schema,
            last_result_only=return_single_query_results(sql, return_last, split_statements),
        )
        plan = ScriptPlan.bind(statements(sql, split_statements=split_statements), parameters, options)
        run = self.script_run(plan, self._begin(), RunListener(handler=handler), ProcessOptions())
        end_when_killed(run)
        done = run.run()
        self._note_changes(done.left, done.node)
        return self.results(done, sql, split_statements, return_last)

    def script_run(
        self,
        plan: ScriptPlan,
        identity: RunIdentity,
        listener: RunListener,
        process: ProcessOptions,
    ) -> ScriptRun:
        """A run on this connection, not started yet.

        :param plan: what is to be run; its database is that of the options, not the hook's ``schema``.
        :param identity: who runs it; its connection is this one, whatever it says.
        :param listener: whom to tell; its logger is the hook's, whatever it says.
        :param process: what this process does of it; its command is this connection's, whatever it says.
        :raises ConfigError: as :class:`~..impala.script.run.ScriptRun`.
        """
        from airflow_provider_impala_lb.impala.script.run import ScriptRun

        if not len(plan):
            self.log.info("The script holds nothing but comments: there is nothing to run")
        return ScriptRun(
            self.balancer.cluster,
            self.balancer.sessions,
            plan,
            msgspec.structs.replace(identity, connection=str(self.get_conn_id())),
            msgspec.structs.replace(listener, logger=cast("Logger", self.log)),
            msgspec.structs.replace(process, command=self.balancer.command),
        )

    def results(self, done: ScriptDone, sql: Any, split_statements: bool | None, return_last: bool) -> Any:
        """What common-sql's ``run`` would return for these results; sets ``host``, ``query_ids``, ``descriptions``.

        :param done: the script.
        :param sql: as for :meth:`run`.
        :param split_statements: as for :meth:`run`.
        :param return_last: as for :meth:`run`.
        """
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
        """The statements of a script, by Impala's lexer rules.

        :param sql: the script.
        :param strip_semicolon: of no effect: they never have a ``;``.
        :raises ScriptError: it cannot be split.
        """
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

        Values as in :mod:`..impala.sql.parameters`. All are looked at before anything is sent.

        :param table: ``t`` or ``db.t``, either part maybe in backticks.
        :param rows: the values of each row.
        :param target_fields: names of columns, maybe in backticks; default None: all columns, in order.
        :param commit_every: rows to a statement at most; 0 for all in one. Fewer, where a statement would come near to
            Impala's limits: 250,000 expressions (STATEMENT_EXPRESSION_LIMIT), 16 MiB (MAX_STATEMENT_LENGTH_BYTES).
            Default 1000.
        :param replace: must be False, the default: Impala's INSERT OVERWRITE replaces the whole table, not rows.
        :param _: what else common-sql takes, of no effect.
        :raises ValueError: ``replace`` is True.
        :raises ScriptError: a value has no text in SQL, a row alone is over the limit, or a name is none; nothing was
            sent.
        :raises StatementFailed: which rows failed, and which are in the table already.
        """
        from airflow_provider_impala_lb.hooks.dialect import quoted, table_parts
        from airflow_provider_impala_lb.hooks.insert_statements import InsertStatements

        if replace:
            raise ValueError("replace=True: Impala has no REPLACE; INSERT OVERWRITE would replace the whole table")
        if isinstance(target_fields, str):
            raise ScriptError(f"target_fields is a str, {target_fields!a}: it must be a list of names", line=1)
        names = [quoted(field) for field in target_fields or ()]
        parts = table_parts(table)
        into = f"INSERT INTO {table}" + (f" ({', '.join(names)})" if names else "")
        inserts = InsertStatements(
            into,
            rows,
            columns=len(names),
            most_rows=commit_every,
            query_options=self.balancer.config.session.query_options,
        )
        done: list[str] = []
        sticky = self._sticky_host()
        with self.get_conn() as connection, connection.cursor() as cursor:
            for number, insert in enumerate(inserts, 1):
                try:
                    cursor.execute(insert.sql)
                except StatementFailed as error:
                    # The cursor knows of one statement only; what is in the table by now must be said.
                    raise StatementFailed(
                        error.reason,
                        number=number,
                        total=len(inserts),
                        line=1,
                        node=error.node,
                        query_id=error.query_id,
                        outcome=error.outcome,
                        sql=f"{into}, rows {insert.first} to {insert.last}",
                        done=done,
                    ) from error
                done.append(f"{number} (rows {insert.first} to {insert.last}, query {cursor.query_id})")
                self.log.info("Inserted %d of %d rows into %s", insert.last, inserts.rows, table)
            if done:
                database = self.schema or self.balancer.config.session.database or "default"
                name = ".".join(parts if len(parts) > 1 else [database, *parts])
                changed = Upstream.of({"written": [name], "complete": True})
                before = [sticky.upstream or Upstream(host=sticky.host)] if sticky.host else []
                self._note_changes(changed.after(before), connection.pick.node)

    def test_connection(self) -> tuple[bool, str]:  # type: ignore[override]  # its own returns one too
        """Try the lock file's directory (or the Redis) and open a session on every coordinator, from the host that this
        runs on.

        :returns: whether all is well; and a text with the result of each.
        """
        from airflow_provider_impala_lb.doctor.run import check_state

        try:
            balancer = self.balancer
        except ImpalaLBError as error:
            return False, str(error)
        results = {}
        if balancer.config.lock_file or balancer.config.store:
            problems = [finding.message for finding in check_state(balancer) if finding.verdict == "failed"]
            results["shared state"] = "; ".join(problems) or "ok"
        if not balancer.config.addresses:
            results["nodes"] = balancer.cluster.discovery.none_known
        for address in balancer.config.addresses:
            try:
                balancer.sessions.open(address, database=self.schema).close()
                results[address] = "ok"
            except ImpalaLBError as error:
                results[address] = str(error)
        good = all(result == "ok" for result in results.values())
        return good, "; ".join(f"{what}: {result}" for what, result in results.items())

    def get_openlineage_default_schema(self) -> str | None:
        """The database of unqualified names."""
        return self.schema or self.connection.schema or "default"

    # Airflow 3.2 and later read the form from get_provider_info, older ones call these two.

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """The fields of the connection's form beside Airflow's own."""
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
        """What Airflow's own fields of the form are called, and their placeholders."""
        from airflow_provider_impala_lb.get_provider_info import FIELD_BEHAVIOUR

        return {key.replace("-", "_"): value for key, value in FIELD_BEHAVIOUR.items()}


def statements(
    sql: str | Iterable[str], *, split_statements: bool = True, variables: Mapping[str, str] | None = None
) -> list[Statement]:
    """The statements of a script or of several; none where they hold nothing but comments.

    :param sql: a script, or several.
    :param split_statements: cut by Impala's lexer rules; False: each text is one statement. Default True.
    :param variables: values of ``${var:name}``; default None: none.
    :raises ScriptError: cannot be split, or is blank: then something else was meant.
    """
    texts = [sql] if isinstance(sql, str) else list(sql)
    result: list[Statement] = []
    for index, text in enumerate(texts):
        if split_statements:
            result += split(text, variables, name="script" if isinstance(sql, str) else f"sql[{index}]")
        elif not classify(text.removeprefix("\ufeff")).is_empty:
            result.append(Statement(line=1, sql=text.removeprefix("\ufeff").strip().removesuffix(";")))
    if not result and all(map(is_blank, texts)):
        raise ScriptError("holds no statement", line=1)
    return result
