"""A DB-API cursor over one session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.core.stop_request import Cancelled
from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.hs2.statement_lookup import Sendings
from airflow_provider_impala_lb.impala.sql.classification import classify, excerpt
from airflow_provider_impala_lb.impala.sql.label import Label
from airflow_provider_impala_lb.impala.sql.parameters import bind
from airflow_provider_impala_lb.impala.statement.failure_rules import classify_failure


class Cursor:
    """A DB-API cursor, and the HiveServer2 session that is its own: SET and USE last as long as it.

    :param session: closed with it.
    :param pick: its lease is told of the queries; default None: there is none.
    :param owner: whose work it is, as later attempts find it by the statements' labels; default "": nobody's.
    :param tags: for the labels; default none.
    :param prepare: called before each statement; default nothing is.
    :ivar session: as given.
    :ivar connection: that it is of (PEP 249): who has the cursor alone keeps that, too; None: of none.
    :ivar query_id: of the last statement, as Impala prints it; None until the coordinator has accepted it.
    """

    def __init__(
        self,
        session: Session,
        pick: Pick | None = None,
        owner: str = "",
        tags: Mapping[str, str] | None = None,
        *,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.session = session
        self.connection: object | None = None
        self.query_id: str | None = None
        self._pick, self._owner, self._tags, self._prepare = pick, owner, tags or {}, prepare

    def execute(self, operation: str, parameters: Any = None) -> None:
        """Run one statement to its end.

        :param operation: the statement; a semicolon at its end is dropped.
        :param parameters: see :mod:`~airflow_provider_impala_lb.impala.sql.parameters`; default none.
        :raises ScriptError: they do not fit; nothing was sent.
        :raises StillRunning: an earlier attempt at the same work may still run something; nothing was sent.
        :raises Superseded: a later attempt has taken over; nothing was sent.
        :raises StatementFailed: says whether it ran.
        """
        sql = bind(operation.strip().removesuffix(";"), parameters)
        label = Label.new(1, 1, self._tags, self._owner)
        self.query_id, sendings = None, Sendings(self.session.reconnect_timeout)
        try:
            self._prepare()
            self.session.stop.check_fenced()
            ended = self.session.execute(f"{label} {sql}", on_start=self._started, sendings=sendings)
        except (StatementError, Cancelled) as error:
            found = classify_failure(str(error), classify(sql), accepted=self.query_id is not None)
            raise StatementFailed(
                str(error),
                number=1,
                total=1,
                line=1,
                node=self.session.node.address,
                query_id=self.query_id,
                outcome=found.outcome if sendings.count else "not started",
                advice=found.advice,
                sql=excerpt(operation),
            ) from error
        self.query_id = ended.query_id

    def _started(self, query_id: str) -> None:
        self.query_id = query_id
        if self._pick:
            self._pick.accepted()
            if self.session.operation.was_answered:  # else KILL QUERY of it proves no end
                self._pick.note(query=query_id)

    def executemany(self, operation: str, seq_of_parameters: Sequence[Any]) -> None:
        """Run one statement once for each of several parameters.

        :param operation: as :meth:`execute`.
        :param seq_of_parameters: one entry for each time.
        :raises ScriptError: as :meth:`execute`.
        :raises StatementFailed: as :meth:`execute`.
        """
        for parameters in seq_of_parameters:
            self.execute(operation, parameters)

    @property
    def description(self) -> Any:
        """Of the columns of the last statement's rows, as DB-API has it; None: it has none."""
        return self.session.cursor.description

    @property
    def rowcount(self) -> int:
        """Rows a DML statement modified, or rows fetched so far; -1 where neither is known."""
        return int(self.session.cursor.rowcount)

    @property
    def arraysize(self) -> int:
        """How many rows are fetched at a time."""
        return int(self.session.cursor.arraysize)

    @arraysize.setter
    def arraysize(self, rows: int) -> None:
        self.session.cursor.arraysize = rows

    def fetchone(self) -> Any:
        """The next row, or None.

        :raises InterfaceError: the cursor was closed.
        """
        return self._open().fetchone()

    def fetchmany(self, size: int | None = None) -> Any:
        """The next rows.

        :param size: how many at most; default :attr:`arraysize`.
        :raises InterfaceError: the cursor was closed.
        """
        return self._open().fetchmany(size)

    def fetchall(self) -> Any:
        """All rows that are left.

        :raises InterfaceError: the cursor was closed.
        """
        return self._open().fetchall()

    def __iter__(self) -> Iterator[Any]:
        """The rows that are left. Who has the iterator alone keeps the cursor, and with it the connection.

        :raises InterfaceError: the cursor was closed before the last row.
        """
        yield from self._open()
        self._open()  # impyla takes a close for the end of the rows

    def _open(self) -> Any:
        if not self.session.is_open:
            from impala.error import InterfaceError

            raise InterfaceError("the cursor is closed: rows may be missing")
        return self.session.cursor

    def close(self) -> None:
        """Close the session. Never raises."""
        self.session.close()

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
