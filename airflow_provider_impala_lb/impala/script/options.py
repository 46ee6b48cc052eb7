"""What the caller of a run decides: about the script, who runs it, whom to tell, and what this process does of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from logging import Logger, getLogger
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from airflow_provider_impala_lb.core.ports import JournalStore
from airflow_provider_impala_lb.impala.script.upstream import Upstream

if TYPE_CHECKING:
    from airflow_provider_impala_lb.core.cluster.pick import Pick
    from airflow_provider_impala_lb.impala.hs2.session import Session

OnUnavailable = Literal["move", "wait", "fail"]


class RunOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the author of a script chose; the same for a worker, a trigger and the command line. JSON by msgspec.

    :param session_key: scripts with the same key run on one node; None: none.
    :param prefer: the sticky host, ``host:port``; None: there is none.
    :param on_unavailable: what to do if the sticky host cannot take the script: ``"move"`` to another node, once that
        knows what the upstream wrote; ``"wait"`` for it up to ``session.reconnect_timeout``; or ``"fail"``.
    :param upstream: what ran on ``prefer`` before, and changed; None: not known.
    :param restartable: it is safe to run the script again from statement 1. When its node is overloaded, the running
        statement is cancelled, seen to end, and the script begins anew on another node, unless it has run for more
        than 5 minutes. False: it finishes where it is.
    :param resume: with a journal: go on where an earlier attempt stopped, and on another node where this one takes no
        more. False: a retry begins at statement 1.
    :param publish: seconds; run the last change of each table with SYNC_DDL, so that every coordinator has seen them at
        the script's end, and wait for that at most so long once a statement is known to be done. None: do not.
    :param max_wait: seconds to wait while all nodes are busy or full; None: ``max_wait`` of the configuration.
    :param database: of the session, instead of the configuration's; None: that one.
    :param query_options: set for the session when it is opened, over the configuration's; None: no more than those.
    :param statement_timeout: seconds after which a statement is cancelled, and the script fails; None: no limit.
    :param last_result_only: only the last result of the handler is of use: those before it are not kept.
    :param output: a file (.csv, .csv.gz, .parquet) for the rows of the script's last query, instead of the handler;
        streamed, and there under its name only once it is whole. None: no file.
    """

    session_key: str | None = None
    prefer: str | None = None
    on_unavailable: OnUnavailable = "move"
    upstream: Upstream | None = None
    restartable: bool = False
    resume: bool = False
    publish: float | None = None
    max_wait: float | None = None
    database: str | None = None
    query_options: Mapping[str, Any] | None = None
    statement_timeout: float | None = None
    last_result_only: bool = False
    output: str | None = None


def why_not_json(options: RunOptions) -> str | None:
    """Whether another process would get these options as they are: a trigger's travel as JSON.

    :param options: as a caller made them, unchecked.
    :returns: None if it would; else what is wrong, and where.
    """
    try:
        msgspec.convert(msgspec.to_builtins(options), RunOptions)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


class StatementDone(msgspec.Struct):
    """A statement that has ended well.

    :param number: from 1.
    :param line: where it begins in the script, from 1.
    :param query_id: Impala's; "" where an earlier attempt ran it and the journal has not kept it.
    :param rows: modified by DML; None: it modifies none, or the number is not known.
    :param seconds: from sending to its end.
    """

    number: int
    line: int
    query_id: str
    rows: int | None
    seconds: float


class RunListener(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to tell how a run goes.

    :param handler: called with the cursor after each statement, as in common-sql; what it returns is the statement's
        result. None: rows are not fetched.
    :param on_session: called once a session is open, before the first statement is sent in it, and again after a move.
        What it raises ends the run. None: nobody is told.
    :param on_statement: called when a statement has ended well. What it raises is logged, and the script goes on. None:
        nobody is told.
    :param logger: for the lines that people read; default this package's.
    """

    handler: Callable[[Any], Any] | None = None
    on_session: Callable[[Pick, Session], None] | None = None
    on_statement: Callable[[StatementDone], None] | None = None
    logger: Logger = getLogger("airflow_provider_impala_lb.impala.script")


class ProcessOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does of a run, while another one may do the rest of it.

    :param journals: where it is kept, beside the balancer's state, what an attempt has begun; None: nowhere.
    :param outcomes: with ``journals``: keep which statements have run; False: only which sessions may still be open.
    :param ticket: with ``asks_again``: the name of the place in the queue, for who comes back to it, maybe as another
        process; None: the lease's id.
    :param asks_again: with ``ticket``: the caller comes back after so many seconds, and :meth:`~.run.ScriptRun.run`
        raises :class:`MustWait` instead of waiting for a node. None: it waits.
    :param hand_over_after: with ``journals``: after so many seconds :meth:`~.run.ScriptRun.run` raises `Deferred`, and
        another process goes on by :meth:`~.run.ScriptRun.go_on`. None: only when it is asked to.
    :param hand_over_rows: it does so once the last statement has ended, if that has rows, for another process to fetch
        them.
    :param time_limit: of a script that goes on here: it is cancelled when it has taken so many seconds, with those of
        the processes before. None: it may take any time.
    :param finish_at_end: the journal says at once that the script has ended; False: when
        :meth:`~.run.ScriptRun.finish` is called.
    :param command: how a command for the author begins, for a shell.
    """

    journals: JournalStore | None = None
    outcomes: bool = True
    ticket: str | None = None
    asks_again: float | None = None
    hand_over_after: float | None = None
    hand_over_rows: bool = False
    time_limit: float | None = None
    finish_at_end: bool = True
    command: str = "impala-lb --config FILE"
