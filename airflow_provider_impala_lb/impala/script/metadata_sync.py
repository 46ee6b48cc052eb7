"""Other coordinators must know what was written: before a script that should have stuck to one runs on another one, and
at the end of a script that is to be published.

A coordinator hears of the others' changes 2 to 6 s late, as a rule. Until then it does not know new tables, and, worse,
silently leaves out the newest rows of those it knows. What a coordinator gets by REFRESH comes from the catalog
service itself, and is whole.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from logging import Logger, getLogger
from typing import Literal

from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.operation import Limits
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.script.upstream import Upstream
from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.sql.label import Label
from airflow_provider_impala_lb.impala.statement.failure_rules import classify_failure

MOVE_SECONDS = 10.0
"""So long after a script's end every coordinator is taken to know all that it did, without any REFRESH. Metadata
reach the others within about 2 to 6 s: up to two statestore rounds at the catalog service, one to the coordinator."""
MOST_REFRESHED = 100
"""With more names than this the one wait is cheaper, for Impala too: a REFRESH lists the files of its table."""
_POLL_SECONDS = 0.5
"""Between two questions whether something is known by now."""

# The coordinator's own analysis (Analyzer.java): it does not know the name.
_NO_DATABASE = re.compile(r"Database does not exist")
_NO_TABLE = re.compile(r"Table does not exist|Could not resolve (table reference|path)")
# The catalog service (CatalogOpExecutor.execResetMetadata): there is no such table; what the coordinator shows is old.
_GONE = re.compile(r"TableNotFoundException|Table not found")
# With SYNC_DDL on (CatalogServiceCatalog.waitForSyncDdlVersion): here it is done, and that is all that matters.
_DONE = re.compile(r"operation has been successfully executed")
_LATE = re.compile("publish_timeout: ")
_State = Literal["known", "no table", "no database", "gone"]


def make_visible(
    session: Session,
    upstream: Upstream,
    *,
    check: Callable[[], None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
    log: Logger | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Return when ``session``'s coordinator knows all that ``upstream`` left, or is taken to.

    Each table that was written is refreshed here, after an INVALIDATE METADATA if this coordinator does not know it.
    What no statement can bring (a new database, the news that something was dropped, a REFRESH that was refused)
    is waited for, 10 s at most. The session's database and options stay as they are.

    :param session: on the coordinator that is to know it.
    :param upstream: what ran on another one, and left.
    :param check: called before each statement; may raise, to stop. Default: nothing.
    :param sleep: called to wait, with seconds; may raise, to stop. Default `time.sleep`.
    :param log: for people; default the module's.
    :param tags: for the label of each statement; default none.
    :raises StatementError: this coordinator takes no new work, or the connection failed. Nothing but this was run here.
    :raises Cancelled: the session was cancelled.
    """
    _Sync(session, upstream, check, sleep, log or getLogger(__name__), tags or {}).run()


def publish(
    session: Session,
    names: Sequence[str],
    limits: Limits,
    *,
    check: Callable[[], None],
    log: Logger,
    tags: Mapping[str, str],
) -> list[str]:
    """Let every coordinator hear of these tables: of what their last statement with SYNC_DDL may have had no reason to
    wait for, since it changed nothing in the catalog.

    A REFRESH has: it answers with the table, whether it found something new or not, and so Impala waits for the table's
    present version (``CatalogOpExecutor.execResetMetadata``). No statement can do that for what has been dropped.

    :param session: of the script that changed them.
    :param names: ``db.table``.
    :param limits: of each statement; where the others have not all heard of one in time, the rest is not tried.
    :param check: called before each statement; may raise, to stop.
    :param log: for people.
    :param tags: for the label of each statement.
    :returns: those that every coordinator knows now.
    :raises Cancelled: the session was cancelled.
    """
    known: list[str] = []
    for number, name in enumerate(names, 1):
        check()
        label = Label.new(number, len(names), {"publish": name, **tags})
        try:
            session.execute(f"{label} REFRESH {_quoted(name)}", options={"SYNC_DDL": "1"}, limits=limits)
            session.finish()
        except StatementError as error:
            log.warning("%s may not be known to all coordinators yet: %s", name, " ".join(str(error).split()))
            if not session.is_open or _LATE.match(str(error)):
                break
            continue
        known.append(name)
    return known


class _Sync:
    def __init__(
        self,
        session: Session,
        upstream: Upstream,
        check: Callable[[], None],
        sleep: Callable[[float], None],
        log: Logger,
        tags: Mapping[str, str],
    ) -> None:
        self._session, self._upstream = session, upstream
        self._check, self._sleep, self._log = check, sleep, log
        self._tags = {"metadata_sync": upstream.host or "unknown", **tags}
        self._names = [*upstream.written, *upstream.dropped]
        self._number = 0
        self._invalidated: set[str] = set()
        self._refused: list[str] = []
        self._began = time.monotonic()

    def run(self) -> None:
        upstream, here = self._upstream, self._session.node.address
        if upstream.host == here:
            return
        if upstream.published:
            self._log.info("All that the script on %s changed was made with SYNC_DDL: %s knows it", upstream.host, here)
            return
        if not upstream.complete:
            self._wait("what it changed is not known in full")
            return
        if len(self._names) > MOST_REFRESHED:
            self._wait(f"it changed {len(self._names)} tables, too many to refresh one by one")
            return
        unknown = self._wait_until_known(self._ask_all())
        if unknown or self._refused:
            self._wait(*self._refused, *(["not known here yet: " + ", ".join(unknown)] if unknown else []))
        elif self._names:
            self._log.info(
                "%s knows all %d tables that the script on %s changed, after %.2f s",
                here,
                len(self._names),
                upstream.host,
                time.monotonic() - self._began,
            )

    def _ask_all(self) -> list[str]:
        """Returns the names that can only be waited for. The upstream's clock does not matter here: however long ago
        it says it ended, its tables are refreshed."""
        unknown = []
        for name in self._names:
            self._number += 1
            if time.monotonic() - self._began >= MOVE_SECONDS:
                break  # the rest has had its time meanwhile
            if not self._is_known(name):
                unknown.append(name)
        return unknown

    def _wait_until_known(self, unknown: list[str]) -> list[str]:
        """Ask again and again. Returns what is still unknown when the time is over."""
        if unknown:
            self._log.info("Waiting until %s has heard of %s", self._session.node.address, ", ".join(unknown))
        while unknown and (seconds := self._seconds_remaining()) > 0:
            self._sleep(min(_POLL_SECONDS, seconds))
            unknown = [name for name in unknown if not self._is_known(name)]
        return unknown

    def _is_known(self, name: str) -> bool:
        """Whether this coordinator has the present state of ``name``, perhaps by what is done here; or refuses to."""
        try:
            return self._make_known(name)
        except StatementError as error:
            # Nothing more can be sent here, also not the script.
            if classify_failure(str(error), classify("REFRESH"), accepted=error.query_id is not None).verdict in (
                "refused",
                "session",
            ):
                raise
            self._refused.append(f"{name}: {' '.join(str(error).split())}")
            return True

    def _make_known(self, name: str) -> bool:
        state = self._refresh(name)
        if name not in self._upstream.written:
            # INVALIDATE METADATA would be of no use: for what the catalog service has dropped itself it answers with an
            # error, and the coordinator goes on showing it.
            return state != "gone"
        # It would be of no use in a database that is not known here either: the coordinator passes over what the
        # catalog service answers (ImpaladCatalog.addTable).
        if state == "no table" and name not in self._invalidated:
            self._invalidated.add(name)  # once: it makes the catalog service read the whole table again
            try:
                self._execute(f"INVALIDATE METADATA {_quoted(name)}")
            except StatementError as error:
                if _GONE.search(str(error)):
                    return True  # dropped meanwhile: nobody has it
                raise
            state = self._refresh(name)
        return state == "known"

    def _refresh(self, name: str) -> _State:
        try:
            if "." in name:
                self._execute(f"REFRESH {_quoted(name)}")
                return "known"
            # No statement brings a database. This one fails where it is not known, and else finds no table.
            self._execute(f"SHOW TABLES IN {_quoted(name)} LIKE '-'")
            return "known" if name in self._upstream.written else "gone"
        except StatementError as error:
            if _GONE.search(str(error)):
                return "gone"
            if _NO_DATABASE.search(str(error)):
                return "no database"
            if _NO_TABLE.search(str(error)):
                return "no table"
            raise

    def _execute(self, sql: str) -> None:
        self._check()
        try:
            self._session.execute(f"{Label.new(self._number, len(self._names), self._tags)} {sql}")
        except StatementError as error:
            if not _DONE.search(str(error)):
                raise
        self._session.finish()

    def _seconds_remaining(self) -> float:
        """Until 10 s after the beginning here, when the upstream had ended. It may have ended long before, but when is
        told by another host's clock: one that is 10 s behind this one would mean no wait at all."""
        return MOVE_SECONDS - (time.monotonic() - self._began)

    def _wait(self, *reasons: str) -> None:
        seconds = max(self._seconds_remaining(), 0.0)
        self._log.warning(
            "%s: waiting %.1f s for what the script on %s changed. Before that, %s may not see all that it wrote, and "
            "rows would silently be missing",
            "; ".join(reasons),
            seconds,
            self._upstream.host or "the other coordinator",
            self._session.node.address,
        )
        if seconds:
            self._sleep(seconds)


def _quoted(name: str) -> str:
    return ".".join(f"`{part}`" for part in name.split("."))
