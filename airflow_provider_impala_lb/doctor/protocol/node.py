"""One coordinator while the script protocol is tried on it: its sessions, its tables, its time, and what was found."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import getLogger

from msgspec.structs import replace

from airflow_provider_impala_lb.core.stop_request import Cancelled, StopRequest
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.doctor.protocol.proofs import Proofs
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError
from airflow_provider_impala_lb.impala.hs2.ids import StatementEnd, StatementError
from airflow_provider_impala_lb.impala.hs2.operation import Limits
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.sql.label import Label
from airflow_provider_impala_lb.impala.web.debug_pages import ProbeFailed

log = getLogger(__name__)

PREFIX = "impala_lb_doctor_"
"""Of the tables that a trial makes."""
TRIAL_SECONDS = 25.0
"""For one trial: then its sessions are told to stop. A call that is under way then may take `CALL_SECONDS` more."""
CALL_SECONDS = 10.0
"""For one call of HiveServer2, and for a session to be opened."""
STATEMENT_SECONDS = 15.0
"""For one statement, planning and queue included."""
_DROP_SECONDS = 15.0
"""For all tables of a coordinator to be dropped."""
_LOST_SECONDS = 5.0
"""So long something out of reach is asked again. It sets ``QUERY_TIMEOUT_S`` as well."""


def in_short_time(sessions: SessionFactory) -> SessionFactory:
    """The same, with times that fit into a trial.

    :param sessions: as configured.
    """
    session = sessions.config.session
    short = replace(
        session,
        open_timeout=min(session.open_timeout, CALL_SECONDS),
        rpc_timeout=min(session.rpc_timeout, CALL_SECONDS),
        reconnect_timeout=min(session.reconnect_timeout, _LOST_SECONDS),
    )
    return SessionFactory(replace(sessions.config, session=short), sessions.password, sessions.web_password)


class TrialNode:
    """A coordinator under trial.

    :param sessions: as of :func:`in_short_time`.
    :param address: of the node, ``host:port``.
    :param database: where its tables are made.
    :param run: in the names of the tables of one run of the doctor.
    :ivar address: as given.
    :ivar database: as given.
    :ivar proofs: what was found so far.
    :ivar stop: of the trial under way.
    """

    def __init__(self, sessions: SessionFactory, address: str, database: str, run: str) -> None:
        self.address, self.database = address, database
        self._sessions = sessions
        self.proofs = Proofs(address)
        self.stop = StopRequest()
        self._opened: list[Session] = []
        self._left: list[Session] = []
        self._tables: list[str] = []
        self._run, self._over = run, False

    # Trials

    def trial(self, name: str, run: Callable[[TrialNode], Iterator[Finding]]) -> Iterator[Finding]:
        """What a trial finds, as long as it has time. What it opened is closed at its end. Never raises for what the
        coordinator does.

        :param name: of the trial, for what is found about its failure.
        :param run: yields what it finds, or raises.
        """
        if self._over:
            return
        try:
            with self._time(TRIAL_SECONDS):
                yield from run(self)
        except (Cancelled, StatementError, ProbeFailed, ImpalaLBError) as error:
            yield self.not_proved(name, one_line(error))
        except Exception as error:  # of impyla or thrift: one trial less, not the end of all
            log.debug("Trial %s on %s", name, self.address, exc_info=True)
            yield self.not_proved(name, f"the trial itself failed: {type(error).__name__}")

    def end(self) -> None:
        """From another thread: no further trial, and the one under way is to stop."""
        self._over = True
        self.stop.cancel("it was interrupted")

    # Findings

    def proved(self, name: str, message: str) -> Finding:
        """It was seen to be as the protocol has it.

        :param name: what was looked at.
        :param message: what was seen.
        """
        return Finding(f"{name} on {self.address}", "ok", f"proved: {message}")

    def not_proved(self, name: str, message: str, remedy: str = "") -> Finding:
        """It was tried, and was not seen to be so.

        :param name: what was looked at.
        :param message: what was seen.
        :param remedy: what to do about it; default nothing.
        """
        return Finding(f"{name} on {self.address}", "warning", f"not proved: {message}", remedy)

    def not_tried(self, name: str, message: str) -> Finding:
        """It was not tried.

        :param name: what is meant.
        :param message: why, and what is assumed.
        """
        return Finding(f"{name} on {self.address}", "warning", f"not tried: {message}")

    # Sessions

    def open(self) -> Session:
        """A session in the scratch database, closed at the end of the trial.

        :raises NodeRefused: as `SessionFactory.open`.
        :raises ConfigError: as `SessionFactory.open`.
        """
        session = self._sessions.open(self.address, database=self.database, stop=self.stop)
        self._opened.append(session)
        return session

    def leave(self, session: Session) -> None:
        """Drop its connection, as a client that is killed does: the session lives on.

        :param session: one of this trial.
        """
        session.detach()
        self._left.append(session)

    def attach(self, session: Session) -> Session:
        """A session of this trial over a connection of its own, as a later process has it.

        :param session: which one.
        :raises NodeRefused: as `SessionFactory.attach`.
        :raises ConfigError: as `SessionFactory.attach`.
        """
        again = Session.attach(session.login, *session.handle, pages=session.pages, stop=self.stop)
        self._opened.append(again)
        self._left = [left for left in self._left if left is not session]
        return again

    def close_sessions(self) -> None:
        """Close what was opened, in time, whatever it does. Never raises."""
        opened, self._opened = self._opened, []
        for session in reversed(opened):
            session.close()
        left, self._left = self._left, []
        for session in left:
            try:  # with a stop request of its own: that of the trial may be why it is closed
                Session.attach(session.login, *session.handle, pages=session.pages).close()
            except ImpalaLBError as error:
                log.debug("Session %s on %s: %s", session.id, self.address, error)

    # Statements

    def label(self, trial: str) -> Label:
        """A label for a statement of this trial.

        :param trial: its name, for people.
        """
        return Label.new(1, 1, {"doctor": trial})

    def execute(self, session: Session, sql: str, *, options: dict[str, str] | None = None) -> StatementEnd:
        """Run a statement to its end, labelled, within `STATEMENT_SECONDS`.

        :param session: in which it is run.
        :param sql: without a label.
        :param options: query options for it alone; default none.
        :raises StatementError: it failed, or was not over in time.
        :raises Cancelled: the trial's time is up.
        """
        limits = Limits(timeout=STATEMENT_SECONDS)
        return session.execute(f"{self.label('trial')} {sql}", options=options, limits=limits)

    def error_of(self, session: Session, sql: str, *, options: dict[str, str] | None = None) -> StatementError | None:
        """How a statement fails; None: it does not.

        :param session: as :meth:`execute`.
        :param sql: as :meth:`execute`.
        :param options: as :meth:`execute`.
        :raises Cancelled: as :meth:`execute`.
        """
        try:
            self.execute(session, sql, options=options)
        except StatementError as error:
            return error
        return None

    def until(self, seen: Callable[[], bool], seconds: float) -> bool:
        """Look again and again, until it is so.

        :param seen: whether it is.
        :param seconds: how long at most.
        :returns: False: it was not seen in time.
        :raises Cancelled: the trial's time is up.
        """
        deadline = Deadline(seconds)
        while not seen():
            if deadline.passed():
                return False
            self.stop.sleep(0.1)
        return True

    # Tables

    def new_table(self) -> str:
        """The name of a table that nobody has, as it is written in SQL; it is dropped at the end."""
        name = f"`{self.database}`.`{PREFIX}{self._run}_{secrets.token_hex(8)}`"
        self._tables.append(name)
        return name

    def is_of_this_run(self, name: str) -> bool:
        """Whether a table is this doctor's, of this node or another one.

        :param name: without its database.
        """
        return name.startswith(f"{PREFIX}{self._run}_")

    @property
    def tables(self) -> list[str]:
        """Names that were made up and not seen dropped."""
        return list(self._tables)

    def drop_tables(self) -> dict[str, str]:
        """Drop the tables of all trials, in a session of their own.

        :returns: why one could not be dropped, by its name.
        """
        problems: dict[str, str] = {}
        with self._time(_DROP_SECONDS, interrupted=False):
            for name in self.tables:
                try:
                    self.execute(self._opened[-1] if self._opened else self.open(), f"DROP TABLE IF EXISTS {name}")
                except (Cancelled, StatementError, ImpalaLBError) as error:
                    problems[name] = one_line(error)
                    self.close_sessions()
                else:
                    self._tables.remove(name)
        return problems

    @contextmanager
    def _time(self, seconds: float, *, interrupted: bool = True) -> Iterator[None]:
        """So much time for what is done within; then what it opened is closed."""
        stop = self.stop = StopRequest()
        if self._over and interrupted:  # since it was asked for last
            stop.cancel("it was interrupted")
        timer = threading.Timer(seconds, stop.cancel, [f"it was not over within {seconds:g} s"])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self.close_sessions()


def one_line(error: BaseException | str) -> str:
    """An error's text in one line, without what newer versions put around it.

    :param error: or its text.
    """
    text = " ".join(str(error).split())
    return re.sub(r"Query [0-9a-f]{16}:[0-9a-f]{16} failed: ", "", text)[:400]


def check_database(name: str) -> str:
    """The name of a scratch database, fit to be quoted.

    :param name: as the user gave it.
    :raises ConfigError: it is no name.
    """
    if not re.fullmatch(r"\w{1,128}", name, re.ASCII):
        raise ConfigError(f"--protocol {name}: not the name of a database (letters, digits and _)")
    return name.lower()
