"""DB-API on a picked node: what common-sql's operators, sensors and checks see of a balanced connection."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from logging import getLogger

import msgspec

from airflow_provider_impala_lb.core.cluster.cluster import Cluster
from airflow_provider_impala_lb.core.cluster.lease_options import LeaseListener, LeaseOptions
from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.core.rules.supersession import superseded
from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.core.stop_request import Cancelled, StopRequest
from airflow_provider_impala_lb.errors import ImpalaLBError, NoNodeAvailable
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused, refusal
from airflow_provider_impala_lb.impala.hs2.cursor import Cursor
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.refusals import Refusals
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.previous.late_leftovers import LateLeftovers
from airflow_provider_impala_lb.impala.script.metadata_sync import make_visible
from airflow_provider_impala_lb.impala.script.upstream import Upstream

log = getLogger(__name__)


class Connection:
    """A DB-API connection to one picked node. Each cursor is a session there; ``close()`` ends them and the lease.

    :param pick: the node, and the lease on it.
    :param open_session: opens one more session on the node, whose work stops by ``stop``.
    :param stop: says when all of it is to stop.
    :param owner: whose later attempts are to find the cursors' sessions, and end them; default "": nobody's.
    :param tags: for the labels of what is sent; default none.
    :param leftovers: ends what is found only now of earlier attempts; default None: nothing.
    :ivar pick: as given.
    """

    def __init__(
        self,
        pick: Pick,
        open_session: Callable[[], Session],
        stop: StopRequest,
        *,
        owner: str = "",
        tags: Mapping[str, str] | None = None,
        leftovers: LateLeftovers | None = None,
    ) -> None:
        self.pick = pick
        self._stop, self._owner, self._tags = stop, owner, tags or {}
        self._open_session = open_session
        first = open_session()
        self._sessions = [first]
        self._unused: Session | None = first
        # No method of this one: it would keep it from being dropped.
        self._prepare = partial(_prepare, pick, leftovers, owner, self._tags, stop)
        self._end_dropped = weakref.finalize(
            self, _end_dropped, self._sessions, pick, owner, self._prepare, os.getpid()
        )

    def hear_of(self, upstream: Upstream) -> None:
        """Return once the node knows all that ``upstream`` left.

        :param upstream: what ran on another node before, and changed.
        :raises StatementError: the node takes no work.
        """
        make_visible(self._sessions[0], upstream)

    def cursor(self) -> Cursor:
        """A cursor with a session of its own.

        :raises NodeRefused: the node has stopped taking sessions.
        :raises Superseded: a later attempt at the same work has taken over.
        :raises Cancelled: the connection was cancelled.
        """
        self._stop.check_cancelled()
        session, self._unused = self._unused, None
        if session is None:
            session = self._open_session()
            self._sessions.append(session)
        if self._owner:
            others = [each.id for each in self._sessions if each is not session and (each.is_open or each.left_running)]
            self.pick.note(session=session.id, other_sessions=others, web=session.http_addr)
        cursor = Cursor(session, self.pick, self._owner, self._tags, prepare=self._prepare)
        cursor.connection = self
        return cursor

    def commit(self) -> None:
        """Impala has no transactions: every statement is done when it has ended."""

    def rollback(self) -> None:
        """Cannot be done; common-sql calls it after an error, whose own text matters more."""

    def cancel(self, reason: str) -> None:
        """End what runs, over a second connection, and run nothing more. Never raises.

        :param reason: for whoever waits for it.
        """
        for session in self._sessions:
            session.cancel(reason)
        self._stop.cancel(reason)

    def close(self) -> None:
        """Close the cursors' sessions, and end the lease. What was not seen to end is noted with it, for the owner's
        next attempt. Never raises."""
        self._end_dropped.detach()
        _end(self._sessions, self.pick, self._owner, self._prepare)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ConnectOptions(msgspec.Struct, frozen=True):
    """What is wanted of a connection.

    :ivar owner: who asks, e.g. ``dag/run/task``; shown by status.
    :ivar database: of each cursor's session, instead of the configuration's; None: that.
    :ivar session_key: connections and scripts with the same key are on one node; None: on any.
    :ivar prefer: a node (``host:port``) to keep if it takes the connection; None: none.
    :ivar upstream: what ran on ``prefer`` before, and changed; another node is told of it first. None: not known.
    :ivar attempt: which attempt of ``owner`` this is: a later one finds what it has left. None: not known.
    :ivar tags: for the labels of what is sent, as of `RunIdentity`.
    :ivar leftovers: ends what earlier attempts have left, also where it is found only later. None: nobody does.
    """

    owner: str = ""
    database: str | None = None
    session_key: str | None = None
    prefer: str | None = None
    upstream: Upstream | None = None
    attempt: Attempt | None = None
    tags: Mapping[str, str] = {}
    leftovers: LateLeftovers | None = None


def connect(cluster: Cluster, sessions: SessionFactory, options: ConnectOptions) -> Connection:
    """A connection on a picked node; those that refuse a session are left out, and the next one is picked.

    :param cluster: picks the node.
    :param sessions: opens the sessions.
    :param options: what is wanted.
    :raises NoNodeAvailable: all refused.
    :raises ConfigError: two of them refused the login, or ``prefer`` is not a node of the configuration.
    """
    prefer = cluster.config.canonical(options.prefer) if options.prefer else None
    upstream = options.upstream
    if prefer and upstream is None:
        upstream = Upstream(host=prefer)
    refused: dict[str, str] = {}
    refusals = Refusals(cluster.config)
    on_left = options.leftovers.found if options.leftovers else None
    while True:
        stop = StopRequest()
        listener = LeaseListener(on_fenced=partial(stop.fence, str(superseded(options.owner))), on_left=on_left)
        lease_options = LeaseOptions(listener=listener, attempt=options.attempt)
        try:
            pick = cluster.picker.acquire(options.owner, options.session_key, prefer, refused, lease_options)
        except NoNodeAvailable as error:
            raise NoNodeAvailable(f"{error.summary}; nothing was run", error.reasons) from None
        # What the session key brings along comes after the connection's database, and before the caller's.
        open_session = partial(
            sessions.open, pick.node, database=options.database or pick.database, options=pick.options, stop=stop
        )
        connection: Connection | None = None
        try:
            owner = options.owner if options.attempt is not None else ""
            connection = Connection(
                pick, open_session, stop, owner=owner, tags=options.tags, leftovers=options.leftovers
            )
            refusals.accepted(pick.node)
            if upstream is not None:
                connection.hear_of(upstream)
            return connection
        except (NodeRefused, StatementError) as error:
            problem = error if isinstance(error, NodeRefused) else refusal(str(error))
            refused[pick.node] = str(problem)
            _undo(connection, pick)
            refusals.add(pick, problem)
        except BaseException:
            _undo(connection, pick)
            raise


def _prepare(
    pick: Pick, leftovers: LateLeftovers | None, owner: str, tags: Mapping[str, str], stop: StopRequest
) -> None:
    """Before each statement, and at the end: whoever is found only now runs nothing more after what was run here."""
    pick.see_noted()
    if leftovers is not None:
        leftovers.end(owner, tags.get("try", ""), stop.sleep)


def _end(sessions: Sequence[Session], pick: Pick, owner: str, prepare: Callable[[], None]) -> None:
    try:
        prepare()
    except (ImpalaLBError, Cancelled) as error:
        log.warning("What was run on %s has ended. %s", pick.node, error)
    for session in sessions:
        session.close()
    pick.release(left_running=owner != "" and any(session.left_running for session in sessions))


def _end_dropped(sessions: Sequence[Session], pick: Pick, owner: str, prepare: Callable[[], None], pid: int) -> None:
    """Of a connection that nobody has any more, and nobody has closed, as after ``hook.get_cursor()``."""
    if os.getpid() != pid:  # a fork: it is the parent's
        return
    if threading.main_thread().is_alive():
        # Any thread may be the one that collects garbage: it shall not wait for a server.
        work = partial(_end, sessions, pick, owner, prepare)
        try:
            threading.Thread(target=work, name="impala-lb-dropped", daemon=True).start()
        except RuntimeError:  # no more threads for this process
            work()
    elif threading.current_thread() is threading.main_thread():
        _end(sessions, pick, owner, prepare)  # at the interpreter's end no thread can be started


def _undo(connection: Connection | None, pick: Pick) -> None:
    if connection is not None:
        connection.close()
    pick.release()
