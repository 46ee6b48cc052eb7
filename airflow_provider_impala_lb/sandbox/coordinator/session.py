"""One HS2 session: what it holds, when it was last used, over which connections; and a connection."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from airflow_provider_impala_lb.sandbox.common import query_options
from airflow_provider_impala_lb.sandbox.common.errors import Refused
from airflow_provider_impala_lb.sandbox.coordinator.ids import new_secret, new_session_guid, printed


@dataclass(eq=False)
class Connection:
    """One TCP connection.

    :ivar id: unique, as the pages show it.
    :ivar address: the client's ``host:port``.
    :ivar user: empty unless the client proved who it is (PLAIN).
    :ivar opened: seconds since 1970; default now.
    """

    id: str
    address: str
    user: str
    opened: float = field(default_factory=time.time)


class Session:
    """The state of one session. The coordinator's lock guards what changes, this class's own the options.

    :param user: whose it is.
    :param connected_user: who opened it: the same, but for delegation.
    :param idle_timeout: the coordinator's ``idle_session_timeout``, seconds, 0 for never.
    :ivar guid: of its handle.
    :ivar secret: of its handle.
    :ivar id: the guid as printed.
    :ivar user: as given.
    :ivar connected_user: as given.
    :ivar database: the current one; ``default`` at first.
    :ivar options: query options that were set, by name.
    :ivar opened: seconds since 1970.
    :ivar last_used: seconds since 1970.
    :ivar connections: ids of the connections it was used over and that are open.
    :ivar disconnected: since when it has no connection, seconds since 1970; None: it has one.
    :ivar operation_guids: of its registered statements, in order (the values mean nothing).
    :ivar statements: how many it had.
    :ivar calls: how many calls use it now.
    :ivar expired: it was idle for too long; each call that uses it gets that error, until the client closes it.
    :ivar closed: nothing may use it any more.
    """

    def __init__(self, user: str, connected_user: str, idle_timeout: float) -> None:
        self.guid, self.secret = new_session_guid(), new_secret()
        self.id = printed(self.guid)
        self.user = user
        self.connected_user = connected_user
        self.database = "default"
        self.options: dict[str, str] = {}
        self.opened = self.last_used = time.time()
        self.connections: set[str] = set()
        self.disconnected: float | None = None
        self.operation_guids: dict[bytes, None] = {}
        self.statements = 0
        self.calls = 0
        self.expired = False
        self.closed = False
        self._lock = threading.Lock()
        self._flag = idle_timeout

    @property
    def idle_timeout(self) -> float:
        """Seconds, 0 for never: the session's own IDLE_SESSION_TIMEOUT before the coordinator's flag."""
        own = self.options.get("IDLE_SESSION_TIMEOUT", "")
        return int(own) if own else self._flag

    def idle_too_long(self, now: float) -> bool:
        """Has it expired by its idle timeout?

        :param now: seconds since 1970.
        """
        return bool(self.idle_timeout) and self.calls == 0 and now - self.last_used >= self.idle_timeout

    def check_usable(self) -> None:
        """Called before it is used.

        :raises Refused: expired or closed.
        """
        if self.expired:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.last_used))
            raise Refused(
                f"Client session expired due to more than {self.idle_timeout:g}s of inactivity "
                f"(last activity was at: {at})."
            )
        if self.closed:
            raise Refused("Session is closed")

    def set_option(self, name: str, value: str) -> None:
        """Set a query option from the next statement on.

        :param name: in capitals.
        :param value: as it is kept; empty: the option has its default.
        """
        with self._lock:
            self.options[name] = value

    def clear_options(self) -> None:
        """Give every query option its default again."""
        with self._lock:
            self.options.clear()

    def effective_options(self, overlay: dict[str, str] | None = None) -> dict[str, str]:
        """All options that have a value, the unset ones by their defaults.

        :param overlay: options of one statement, before the session's; default none.
        """
        with self._lock:
            return query_options.effective({**self.options, **(overlay or {})})
