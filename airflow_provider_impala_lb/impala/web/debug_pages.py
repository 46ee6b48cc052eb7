"""A coordinator's own web pages: what it runs and ran last, and how to end it there without a secret.

Where they are asked for is one rule, `pages_of`: at the address that the configuration names, and there with a login;
else, without one, where the coordinator says (`page_address`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

import msgspec

from airflow_provider_impala_lb.core.config.model import LoadConfig, Node
from airflow_provider_impala_lb.impala.sql.label import nonce_of
from airflow_provider_impala_lb.impala.web.http_fetch import Fetch, ProbeFailed, fetch_all, tls_context
from airflow_provider_impala_lb.impala.web.page_address import check_host, named_pages

__all__ = ["DebugPages", "ProbeFailed", "Queries", "Query", "pages_of"]

SECONDS = 5.0
"""For one page. ``/queries`` is heavy: it is asked for after a failure only, never polled while all is well."""
_STATUS = re.compile(
    r"^\s*Query Status: (.*?)(?=^\s*(?:Impala Version|Impala Query State|User|Query State):|\Z)", re.M | re.S
)
_VERSION = re.compile(r"impalad version (\d+)\.(\d+)")


class Query(msgspec.Struct):
    """A statement on the page ``/queries``.

    Times are seconds since the epoch by the coordinator's clock and its time zone read as UTC: good for comparing two
    entries of one page only.

    :ivar id: its query id, as Impala prints it.
    :ivar text: the statement, or how it begins.
    :ivar kind: e.g. "QUERY", "DML", "DDL".
    :ivar state: e.g. "RUNNING", "FINISHED", "EXCEPTION".
    :ivar in_flight: it is registered: running, or ended and not closed.
    :ivar started: when it began; None: the page does not say.
    :ivar ended: when it ended; None while it runs, or if the page does not say.
    """

    id: str
    text: str
    kind: str
    state: str
    in_flight: bool
    started: float | None = None
    ended: float | None = None

    @property
    def under_way(self) -> bool:
        """Whether it has not failed, and is not closed."""
        return self.in_flight and self.state not in ("EXCEPTION", "ERROR")


class Queries(msgspec.Struct):
    """The page ``/queries``.

    :ivar queries: what the coordinator runs, and what it ran last.
    :ivar kept: how many ended statements it keeps (``--query_log_size``); 0: the page does not say.
    """

    queries: list[Query]
    kept: int

    def labelled(self, nonce: str) -> Query | None:
        """The statement whose label has this nonce; of several, one that is under way. A statement that was sent twice,
        or that Impala has run again by itself (RETRY_FAILED_QUERIES: every attempt is a query of its own, with the same
        text), has ended only if none is.

        :param nonce: of the label.
        """
        found = [query for query in self.queries if nonce_of(query.text) == nonce]
        return next((query for query in found if query.under_way), found[0] if found else None)

    @property
    def in_flight(self) -> list[Query]:
        """Those that it has registered: running, or ended and not closed."""
        return [query for query in self.queries if query.in_flight]

    @property
    def completed(self) -> list[Query]:
        """Those that have ended and are closed, the one that was archived last first."""
        return [query for query in self.queries if not query.in_flight]

    def by_id(self, query_id: str) -> Query | None:
        """The statement with this query id.

        :param query_id: as Impala prints it.
        """
        return next((query for query in self.queries if query.id == query_id), None)


class DebugPages:
    """The pages of one coordinator.

    :param url: where its web server is.
    :param settings: how it wants a login; None: it wants none.
    :param password: for that login; None: there is none.
    :param same_as: the host of ``url`` must be this one, by name or by address; else nothing is asked. None (default):
        it is as it should be.
    :ivar url: without a slash at its end.
    """

    def __init__(
        self, url: str, settings: LoadConfig | None, password: str | None, *, same_as: str | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._same_as = same_as
        self._settings = settings or LoadConfig()
        self._password = password if self._settings.web_auth != "none" else None

    def queries(self, seconds: float = SECONDS) -> Queries:
        """What it runs, and what it ran last.

        :param seconds: to wait for it at most; default :data:`SECONDS`.
        :raises ProbeFailed: it does not say.
        """
        page = self._get("/queries?json", seconds=seconds)
        if "in_flight_queries" not in page or "completed_queries" not in page:
            raise ProbeFailed(f"{self.url}: /queries is not Impala's")
        found = [_query(row, in_flight=True) for row in page["in_flight_queries"]]
        found += [_query(row, in_flight=False) for row in page["completed_queries"]]
        return Queries(found, int(page.get("completed_log_size", 0)))

    def version(self) -> tuple[int, int]:
        """Of Impala, e.g. ``(4, 5)``, as the root page names it; ``(0, 0)`` if it does not.

        :raises ProbeFailed: there is no page.
        """
        found = _VERSION.search(str(self._get("/?json").get("version")))
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def status(self, query_id: str) -> str:
        """How a statement ended, by its profile: ``OK``, the error's text, or "" where the page does not tell.

        :param query_id: as Impala prints it.
        :raises ProbeFailed: there is no page.
        """
        found = _STATUS.search(str(self._get(f"/query_profile?query_id={quote(query_id)}&json").get("profile", "")))
        return found[1].strip() if found else ""

    def running(self) -> set[str]:
        """Ids of the statements it has registered: running, or ended and not closed.

        :raises ProbeFailed: there is no page.
        """
        return set(str(self._get("/inflight_query_ids?json").get("contents", "")).split())

    def sessions(self) -> set[str]:
        """Ids of its open sessions.

        :raises ProbeFailed: there is no page.
        """
        return {str(row.get("session_id")) for row in self._get("/sessions?json").get("sessions", [])}

    def flags(self) -> dict[str, str]:
        """Its command line flags, by name.

        :raises ProbeFailed: there is no page.
        """
        rows = self._get("/varz?json").get("flags", [])
        return {str(row.get("name")): str(row.get("current")) for row in rows}

    def cancel_query(self, query_id: str) -> str:
        """End a statement. Never one whose handle is not known: up to Impala 4.3 one that is being planned stays in
        flight for ever then.

        :param query_id: as Impala prints it.
        :returns: why it was not ended; "": it was.
        :raises ProbeFailed: no answer.
        """
        return str(self._get(f"/cancel_query?query_id={quote(query_id)}&json", errors=False).get("error", ""))

    def close_session(self, session_id: str) -> bool:
        """End a session and all that runs in it.

        :param session_id: as Impala prints it.
        :returns: False: there is none of this id.
        :raises ProbeFailed: no answer.
        """
        return "error" not in self._get(f"/close_session?session_id={quote(session_id)}&json", errors=False)

    def _get(self, path: str, *, errors: bool = True, seconds: float = SECONDS) -> dict[str, Any]:
        context = tls_context(self._settings) if self.url.startswith("https:") else False
        fetch = Fetch(self.url, self._settings, self._page(path), context=context, login=self._password)
        fetch_all([fetch], seconds)
        if fetch.failed:
            raise fetch.failed
        try:
            page = json.loads(fetch.pages[path])
        except (KeyError, ValueError):
            raise ProbeFailed(f"{self.url}: {path} is not Impala's: no JSON") from None
        if not isinstance(page, dict):
            raise ProbeFailed(f"{self.url}: {path} is not Impala's")
        if errors and "error" in page:
            raise ProbeFailed(f"{self.url}: {path}: {str(page['error'])[:200]}")
        return page

    def _page(self, path: str) -> Callable[[Fetch], None]:
        def plan(fetch: Fetch) -> None:
            self._check_host()  # here, where a resolver that hangs holds nobody up
            fetch.get(path)

        return plan

    def _check_host(self) -> None:
        """:raises ProbeFailed: the pages are another host's."""
        if self._same_as is not None:
            check_host(self.url, self._same_as)
            self._same_as = None


def pages_of(
    node: Node, named: str | None, settings: LoadConfig | None = None, password: str | None = None
) -> DebugPages | None:
    """The pages of a node's coordinator.

    :param node: as configured.
    :param named: the address that the coordinator names, ``host:port``; None: it names none.
    :param settings: how it wants a login at its configured address; None (default): it wants none.
    :param password: for that login; None (default): there is none.
    :returns: None: there are none.
    """
    if node.web:
        return DebugPages(node.web, settings, password)
    pages = named_pages(node, named)
    return DebugPages(pages.url, None, None, same_as=pages.host) if pages else None


def _query(row: Mapping[str, Any], *, in_flight: bool) -> Query:
    return Query(
        id=str(row.get("query_id", "")),
        text=str(row.get("stmt", "")),
        kind=str(row.get("stmt_type", "")),
        state=str(row.get("state", "")),
        in_flight=in_flight,
        started=_moment(row.get("start_time")),
        ended=None if in_flight else _moment(row.get("end_time")),
    )


def _moment(text: Any) -> float | None:
    """``2026-05-29 08:10:00.123``, in the coordinator's own time zone; the fraction has up to nine digits."""
    try:
        whole = str(text)[:23]
        return (
            datetime.strptime(whole if "." in whole else f"{whole}.0", "%Y-%m-%d %H:%M:%S.%f")
            .replace(tzinfo=timezone.utc)
            .timestamp()
        )
    except ValueError:
        return None
