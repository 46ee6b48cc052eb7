"""Run a whole SQL script on one coordinator, in one session, and tell dependent tasks where it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    BaseOperator,
    MappedOperator,
    XComArg,
    conf,
)
from airflow.providers.common.sql.hooks.handlers import return_single_query_results
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from msgspec import to_builtins
from msgspec.structs import replace

from airflow_provider_impala_lb.core.config.value_limits import WEEK, check_seconds
from airflow_provider_impala_lb.errors import (
    ConfigError,
    ImpalaLBError,
    JournalDamaged,
    JournalMissing,
    MustWait,
    ScriptError,
    StatementFailed,
)
from airflow_provider_impala_lb.hooks import task_identity
from airflow_provider_impala_lb.hooks.deferred_script import end_journal, handed_over, pack
from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook, statements
from airflow_provider_impala_lb.hooks.resolve_stick_to import StickTo, StickyHost, resolve
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity
from airflow_provider_impala_lb.impala.script.handover_message import LARGEST_SCRIPT, Deferred, Handover, unpack_script
from airflow_provider_impala_lb.impala.script.options import ProcessOptions, RunListener, RunOptions, why_not_json
from airflow_provider_impala_lb.impala.script.plan import ScriptPlan, counted
from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.operators.no_retry import forbid_retry, next_attempt
from airflow_provider_impala_lb.operators.parse_stick_to import StickyPartial, refer
from airflow_provider_impala_lb.operators.run_xcoms import RunXComs, warn_after_end
from airflow_provider_impala_lb.operators.xcom_values import carried
from airflow_provider_impala_lb.triggers.run_script import DeferredScript, ScriptTrigger, check_event
from airflow_provider_impala_lb.triggers.wait_for_node import RESUME_SECONDS, NodeTrigger

if TYPE_CHECKING:
    from logging import Logger

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_impala_lb.impala.script.options import StatementDone
    from airflow_provider_impala_lb.impala.script.record import ScriptDone
    from airflow_provider_impala_lb.impala.script.run import ScriptRun
    from airflow_provider_impala_lb.impala.sql.splitter import Statement

PUBLISH_SECONDS = 300.0
"""How long ``publish=True`` waits for the other coordinators."""
HAND_OVER_SECONDS = 2.0
"""A script that takes longer goes on in the triggerer, with ``deferrable``: a deferral itself costs seconds."""
RESCHEDULE_SECONDS = 30.0
"""Seconds after which a task that waits by rescheduling comes back, to ask whether it is its turn."""


class ImpalaLBOperator(SQLExecuteQueryOperator):
    """Run a script on one coordinator, in one HiveServer2 session.

    Takes all that ``SQLExecuteQueryOperator`` takes; a script is split by default, by Impala's lexer rules. The host is
    pushed to XCom under ``impala_host`` once the session is open, whatever ``do_xcom_push`` says; a summary of the run
    under ``impala_run`` at its end.

    :param sql: a script, a list of scripts, or the name of a ``.sql`` file (templated). All run in one session.
    :param conn_id: a connection of type ``impala_lb``, or a plain ``impala`` one; default ``impala_lb_default``.
    :param stick_to: run where that task ran: an upstream ImpalaLBOperator, also a mapped one, or its ``.output`` (they
        also set the dependency); a task id, in the same task group also without the group's prefix; an XComArg of a
        task that returns a host; a ``host:port``; or a template of one of them. A task of the same map index, if there
        is one, else the only host of a mapped upstream. An upstream that has left no host (it was skipped, say) means
        an ordinary pick, and the log says so; one that has not finished, or that nothing makes this task wait for, is
        an error. Default None: an ordinary pick.
    :param on_unavailable: if the host to stick to cannot take the script: ``"move"`` to another one, on which the
        tables that the upstream wrote are refreshed first, since its metadata lag behind (where that cannot be done, it
        waits 10 s); ``"wait"`` for it, up to ``session.reconnect_timeout`` (default
        600 s); or ``"fail"``. Default ``"move"``.
    :param session_key: tasks with the same key run on one node without any XCom (templated). Default None: no key.
    :param query_options: set for the session when it is opened, over the connection's (templated). Default None: only
        the connection's.
    :param variables: values of ``${var:name}`` in the script, as impala-shell's ``--var`` (templated). Default None.
    :param restartable: it is safe to run the script again from its first statement: when its node is overloaded, what
        runs is cancelled, seen to end, and the script begins anew on another node, unless it has run for more than 5
        minutes. Default False: it finishes there.
    :param resume: keep a journal of which statements have run: the next attempt goes on at the first that has not, on
        the same node if it is up, with USE and SET replayed. A statement whose outcome cannot be found out stops it
        with a question, unless it is safe to repeat. A script that has changed begins anew. Within an attempt it goes
        on on another node where this one takes no more. Default False: a retry begins at statement 1.
    :param publish: at its end every coordinator has heard of what the script changed: the last change of each table is
        run with SYNC_DDL. Once a statement is known to be done, True waits for the others 300 s at most, a number so
        many seconds; then the summary says that it is not published. Default False.
    :param statement_timeout: seconds (or a timedelta) after which a statement is cancelled, and the task fails. Default
        None: no limit.
    :param output: a file (``.csv``, ``.csv.gz`` or ``.parquet``) on the worker for the rows of the script's last query,
        streamed, whatever their number (templated). ``return_value`` is then its ``path``, ``rows`` and ``bytes``.
        Default None: no file.
    :param max_wait: seconds to wait while all nodes are busy or full; default the connection's ``max_wait`` (300).
    :param deferrable: run without a worker slot: the worker waits for 2 s, then the triggerer goes on with the running
        statement and those after it, and renews the lease; a node is waited for there, too. The rows of the last
        statement, if they are wanted, are fetched by a worker. Needs a lock_file or a store, and a server that keeps
        sessions without a connection (Impala 3.3 and later); else the task keeps its worker, and says so. Default:
        Airflow's ``default_deferrable``.
    :param reschedule: wait for a node by giving the slot back and coming back every 30 s. With neither it sleeps.
        Default False.
    :param hook_params: as of ``SQLExecuteQueryOperator``, without ``stick_to`` and ``session_key``, which are
        parameters here. Default None.
    :param kwargs: of ``SQLExecuteQueryOperator`` and ``BaseOperator``.
    :raises ValueError: a parameter is none of what is allowed; the text says what to write.
    :raises TypeError: ``stick_to`` is nothing that can be stuck to.
    :raises AirflowFailException: when it runs, what no retry can mend: a bad configuration or login, an unsplittable
        script, a syntax error, a host that is not a node of the connection.
    """

    template_fields: Sequence[str] = (
        *SQLExecuteQueryOperator.template_fields,
        "stick_to",
        "session_key",
        "query_options",
        "variables",
        "output_file",
    )
    template_fields_renderers = {  # noqa: RUF012  the base class declares it
        **SQLExecuteQueryOperator.template_fields_renderers,
        "query_options": "json",
        "variables": "json",
    }
    ui_color = "#d5e8f0"
    leaves_host = True
    """Its tasks push ``impala_host``: others can stick to them."""
    if hasattr(BaseOperator, "deps"):
        # Airflow 2 lets only sensors come back at the time they name; others at once.
        from airflow.ti_deps.deps.ready_to_reschedule import ReadyToRescheduleDep

        deps = BaseOperator.deps | {ReadyToRescheduleDep()}

    def __init__(
        self,
        *,
        sql: str | list[str],
        conn_id: str = ImpalaLBHook.default_conn_name,
        stick_to: BaseOperator | MappedOperator | XComArg | str | None = None,
        on_unavailable: Literal["move", "wait", "fail"] = "move",
        session_key: str | None = None,
        query_options: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
        restartable: bool = False,
        resume: bool = False,
        publish: bool | float = False,
        statement_timeout: float | timedelta | None = None,
        output: str | None = None,
        max_wait: float | None = None,
        deferrable: bool | None = None,
        reschedule: bool = False,
        hook_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(sql=sql, conn_id=conn_id, hook_params=hook_params, **kwargs)
        self.restartable, self.resume = restartable, resume
        self.publish = publish
        if isinstance(statement_timeout, timedelta):
            statement_timeout = statement_timeout.total_seconds()
        if statement_timeout is not None:
            check_seconds("statement_timeout", statement_timeout, WEEK, "leave it out for no limit")
        if max_wait is not None:
            check_seconds("max_wait", max_wait, WEEK, "a task that waits longer is lost", least=0)
        self.statement_timeout = statement_timeout
        self.output_file = output  # BaseOperator.output is the task's XCom
        self.max_wait = max_wait
        # Not given to the base class: it may get a deferrable of its own, which knows no session (airflow#65618).
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=False) if deferrable is None else deferrable
        )
        self.reschedule = reschedule  # by this name the scheduler knows when to look (ReadyToRescheduleDep)
        if on_unavailable not in ("move", "wait", "fail"):
            raise ValueError(f"on_unavailable is {on_unavailable!r}; allowed: 'move', 'wait', 'fail'")
        self.on_unavailable = on_unavailable
        self.session_key = session_key
        self.query_options = query_options
        self.variables = variables
        if isinstance(hook_params, Mapping) and (wrong := {"stick_to", "session_key"} & hook_params.keys()):
            names = ", ".join(sorted(wrong))
            raise ValueError(f"hook_params: {names}: of this operator they are parameters: write {names}=...")
        reference = refer(stick_to, self)
        if reference.upstream is not None:
            self.set_upstream(reference.upstream)
        self.stick_to = reference.stick_to
        self._stick_key, self._stick_template_of = reference.key, reference.template_of
        self._sticks = stick_to is not None
        self._resumed = False
        self._script_run: ScriptRun | None = None
        self._packed = ""
        self._xcoms = RunXComs()

    @classmethod
    def partial(cls, **kwargs: Any) -> StickyPartial:  # overrides a descriptor, as that allows
        """As of every operator; an operator as ``stick_to`` sets the dependency here, too.

        :param kwargs: of the class.
        """
        return StickyPartial.of(super().partial, kwargs)

    @classmethod
    def get_serialized_fields(cls) -> frozenset[str]:
        """The scheduler has to know of ``reschedule``, as it does of a sensor's."""
        fields: frozenset[str] = super().get_serialized_fields()  # type: ignore[no-untyped-call]
        return fields | {"reschedule"}

    @cached_property
    def _hook(self) -> ImpalaLBHook:
        """Always our hook, so that a plain ``impala`` connection is taken as a cluster of one."""
        params = {**self.hook_params, "schema": self.database or self.hook_params.get("schema")}
        return ImpalaLBHook(self.conn_id, **params)

    @property
    def _logger(self) -> Logger:
        return cast("Logger", self.log)  # by its type, of Airflow's own kind

    def get_db_hook(self) -> ImpalaLBHook:
        """The hook that all of this task's SQL goes through."""
        return self._hook

    def execute(self, context: Context) -> Any:
        """Run the script.

        :param context: Airflow's, of the task.
        :returns: what ``SQLExecuteQueryOperator`` would; with ``output`` the file's ``path``, ``rows`` and ``bytes``.
        :raises AirflowFailException: no retry can mend it.
        :raises StatementFailed: which statement, where, whether it ran, and what is done.
        :raises ImpalaLBError: what else a retry may mend, as :meth:`~..impala.script.run.ScriptRun.run` raises it.
        :raises TaskDeferred: with ``deferrable``: the triggerer goes on.
        :raises AirflowRescheduleException: with ``reschedule``: it comes back.
        """
        self._resumed = False
        # Not super().execute(): Airflow 2.11 warns of a nested one, and it knows neither one session nor a host.
        return self._run(context)

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """Back from a trigger: it is this task's turn for a node, and it goes on as if it had just begun (its place in
        the queue is still its own); or its script has come to its end, or to rows that are to be fetched here.

        :param context: Airflow's, of the task.
        :param event: of the trigger; None, or without a key that is known here: it is this task's turn.
        :raises Exception: as :meth:`execute`.
        """
        self._resumed = True
        return self._run(context, event if isinstance(event, dict) else {})

    def _run(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        event = event or {}
        # Of this attempt: Airflow executes shallow copies of one operator (``prepare_for_execution``).
        self._xcoms = RunXComs()
        try:
            check_event(event)
            if "done" in event:
                return self._end_of_trigger(context, event)
            return self._execute(context, event.get("go_on"))
        except Deferred as deferred:
            self._defer_script(context, deferred.handover)
        except (ConfigError, ScriptError, JournalMissing, JournalDamaged) as error:
            raise AirflowFailException(str(error)) from error
        except StatementFailed as error:
            may_retry, text = next_attempt(error, resume=bool(self.resume), restartable=bool(self.restartable))
            if not may_retry:
                raise AirflowFailException(f"{error}{text}") from error
            if text:
                self.log.warning("%s", text.strip())
            raise
        except MustWait as waiting:
            self._wait_elsewhere(context, waiting)

    def _wait_elsewhere(self, context: Context, waiting: MustWait) -> NoReturn:
        """Wait for a node without a worker slot."""
        self.log.info("%s", waiting)
        tags = task_identity.tags(context)
        if not self.deferrable:
            raise AirflowRescheduleException(  # type: ignore[no-untyped-call]
                datetime.now(timezone.utc) + timedelta(seconds=RESCHEDULE_SECONDS)
            )
        self.defer(
            trigger=NodeTrigger(
                conn_id=str(self.conn_id),
                ticket=task_identity.ticket(tags),
                owner=task_identity.owner(tags),
                session_key=self._session_key,
                prefer=self._sticky_host(context).host,
                wait=self.max_wait,
            ),
            method_name="execute_complete",
        )

    def _defer_script(self, context: Context, handover: Handover) -> NoReturn:
        """The script goes on without a worker slot."""
        # The rows are a worker's to write; and if the trigger has to look for another node, that is the first time.
        sticky = self._sticky_host(context)
        options = replace(self._options(sticky), output=None, max_wait=None)
        handover = replace(handover, why=self._why(sticky, handover.node, handover.why))
        tags = task_identity.tags(context)
        limit = self.execution_timeout
        self.log.info("The script goes on on %s without this worker", handover.node)
        self.defer(
            trigger=ScriptTrigger(
                str(self.conn_id),
                DeferredScript(
                    owner=task_identity.owner(tags),
                    tags=tags,
                    script=self._hook.balancer.sessions.sealer.seal(self._packed.encode()),
                    handover=handover,
                    options=options,
                    hand_over_rows=self._wants_rows,
                    time_limit=None if limit is None else limit.total_seconds(),
                ),
            ),
            method_name="execute_complete",
        )

    def _end_of_trigger(self, context: Context, event: Mapping[str, Any]) -> None:
        """The trigger has run the script to its end, and nobody wants its rows."""
        run = event["done"]
        if event.get("changes", True):
            self._forbid_retry(context, run["statements"], run["host"])
        self._xcoms.push_end(context, run, self._logger)
        try:
            end_journal(self._hook, task_identity.owner(task_identity.tags(context)), event["epoch"])
        except ImpalaLBError as error:
            warn_after_end(self._logger, "The script's end could not be noted in its journal: %s", error)

    def _forbid_retry(self, context: Context, statements: int, host: str) -> None:
        """All statements are done: a retry would run them again, unless the author said that this is safe, or the
        journal keeps it from that."""
        if not (self.resume or self.restartable):
            reason = f"{counted(statements)} ran to the end on {host}, so the task is not retried: they would run again"
            forbid_retry(self, context, reason)

    @property
    def _session_key(self) -> str | None:
        # A template that is rendered to an object of Python (render_template_as_native_obj) may give a number.
        return None if self.session_key is None else str(self.session_key)

    @property
    def _publish_seconds(self) -> float | None:
        return PUBLISH_SECONDS if self.publish is True else float(self.publish) or None

    @property
    def _wants_rows(self) -> bool:
        if self.output_file is not None:
            return True
        return bool((self._should_run_output_processing() or self.requires_result_fetch) and self.handler)

    def _script(self) -> list[Statement]:
        return statements(self.sql, split_statements=self.split_statements is not False, variables=self.variables)

    def _may_hand_over(self, script: list[Statement], options: RunOptions) -> bool:
        """Whether a trigger can go on with the script. Logs why not."""
        if not self.deferrable or not script:
            return False
        if self._hook.journals is None:
            reason = (
                "the connection shares neither a lock_file nor a store, by which a trigger could know where it stands"
            )
        elif self.output_file is not None and not classify(script[-1].sql).reads_only:
            reason = "the query for its output is not its last statement"
        elif (
            self.output_file is None
            and self._wants_rows
            and not return_single_query_results(self.sql, self.return_last, self.split_statements is not False)
        ):
            reason = "the results of all its statements are wanted, which a trigger does not fetch"
        elif (problem := why_not_json(options)) is not None:
            reason = f"its parameters cannot be kept in Airflow's database: {problem}"
        else:
            self._packed = pack(script, self.parameters)
            if len(self._packed) <= LARGEST_SCRIPT:
                return True
            reason = f"the script is too large for Airflow's database ({len(self._packed)} bytes, packed)"
        self.log.warning("deferrable: this task keeps its worker to the end: %s", reason)
        return False

    def _execute(self, context: Context, handover: Mapping[str, Any] | None = None) -> Any:
        hook = self._hook
        split_statements = self.split_statements is not False
        tags = task_identity.tags(context)
        packed = handed_over(hook, task_identity.owner(tags)) if handover is not None else None
        script, texts = unpack_script(packed) if packed else (self._script(), None)
        sticky = self._sticky_host(context)
        options = self._options(sticky)
        may_hand_over = handover is not None or self._may_hand_over(script, options)
        plan = ScriptPlan(script, texts, options) if texts else ScriptPlan.bind(script, self.parameters, options)
        self._script_run = hook.script_run(
            plan,
            RunIdentity(
                owner=task_identity.owner(tags), tags=tags, attempt=task_identity.attempt(context), one_at_a_time=True
            ),
            RunListener(
                handler=self.handler if self._wants_rows and self.output_file is None else None,
                on_session=lambda pick, _: self._xcoms.push_host(context, pick.host, goes_on=handover is not None),
                on_statement=lambda done: self._note_done(context, done, len(script)),
            ),
            ProcessOptions(
                journals=hook.journals,
                outcomes=bool(self.resume) or may_hand_over,
                ticket=task_identity.ticket(tags) if self.deferrable or self.reschedule else None,
                asks_again=RESUME_SECONDS if self.deferrable else RESCHEDULE_SECONDS if self.reschedule else None,
                hand_over_after=HAND_OVER_SECONDS if may_hand_over and handover is None else None,
                finish_at_end=False,
            ),
        )
        run = self._script_run
        try:
            done = run.run() if handover is None else run.go_on(Handover.unpacked(handover))
        finally:
            self._script_run = None
        done.why = self._why(sticky, done.node, done.why)
        self._xcoms.push_end(context, done.summary(), self._logger)
        result = self._result(done, split_statements)
        # Last: what a retry would have to do again, if this one died here, is not done yet.
        run.finish()
        return result

    def _why(self, sticky: StickyHost, node: str, why: str) -> str:
        if sticky.host is not None and node == self._hook.balancer.config.canonical(sticky.host):
            return f"sticks to {sticky.task_id or 'the host it was given'}"
        return why

    def _note_done(self, context: Context, done: StatementDone, total: int) -> None:
        run = self._script_run
        if done.number == total and run is not None and run.plan.changes_something:
            self._forbid_retry(context, total, run.node)

    def _result(self, done: ScriptDone, split_statements: bool) -> Any:
        """What ``SQLExecuteQueryOperator`` would return."""
        if self.output_file is not None:
            self._hook.results(done, self.sql, split_statements, self.return_last)
            return to_builtins(done.output) if done.output else None
        output = self._hook.results(done, self.sql, split_statements, self.return_last)
        if not self._should_run_output_processing():
            return None
        descriptions = self._hook.descriptions
        if return_single_query_results(self.sql, self.return_last, split_statements):
            return carried(self._process_output([output], descriptions)[-1], descriptions[-1] if descriptions else None)
        results = self._process_output(output, descriptions)
        if not isinstance(results, list) or len(results) != len(descriptions):
            return carried(results, None)
        return [carried(result, description) for result, description in zip(results, descriptions, strict=True)]

    def _options(self, sticky: StickyHost) -> RunOptions:
        """What the author chose, for the worker and for the trigger."""
        split_statements = self.split_statements is not False
        return RunOptions(
            session_key=self._session_key,
            prefer=sticky.host,
            on_unavailable=self.on_unavailable,
            upstream=sticky.upstream,
            restartable=bool(self.restartable),
            resume=bool(self.resume),
            publish=self._publish_seconds,
            max_wait=self.max_wait,
            database=self._hook.schema,
            query_options=dict(self.query_options) if self.query_options else None,
            statement_timeout=self.statement_timeout,
            last_result_only=return_single_query_results(self.sql, self.return_last, split_statements),
            output=self.output_file,
        )

    def _sticky_host(self, context: Context) -> StickyHost:
        if not self._sticks and self.stick_to is None:
            return StickyHost()
        return resolve(
            StickTo(self.stick_to, self._stick_key, self._stick_template_of),
            context,
            self._logger,
            dag=getattr(self, "dag", None),
            # A script that has begun already goes on, whatever a user has cleared meanwhile.
            check=not self._resumed,
        )

    def on_kill(self) -> None:
        """Cancel what runs, over a second connection, within 4 s. Airflow 3 lets ``execute`` go on: the run raises."""
        run = self._script_run
        if run is not None:
            run.cancel("the task was killed")
