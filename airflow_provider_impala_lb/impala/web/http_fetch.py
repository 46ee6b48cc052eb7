"""Pages of a node's web servers over HTTP, each server by a thread of its own, all of them over at one moment."""

from __future__ import annotations

import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_impala_lb.core.config.model import LoadConfig
from airflow_provider_impala_lb.core.config.value_limits import in_clear_text
from airflow_provider_impala_lb.core.text import plain
from airflow_provider_impala_lb.core.timing import Deadline

if TYPE_CHECKING:
    import httpx

# A coordinator's metrics are about 100 kB, an exporter's rarely 1 MB.
PAGE_LIMIT = 8 * 1024 * 1024
THREAD_NAME = "impala-lb probe"


class ProbeFailed(Exception):
    """A node's page could not be had, or is not what it should be.

    :param reason: why; holds no password. Kept as one line that a log, a terminal and the shared state can take: what a
        page says may be in it.
    :param refused: nobody listens there; default False.
    :ivar refused: as given.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(plain(" ".join(reason.split())))
        self.refused = refused


def _is_refused(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None


class Fetch:
    """The pages of one server, asked for one after the other.

    A timeout of httpx is for one read: a server that trickles bytes would keep it waiting for ever. So each TCP
    connection is noted here, and :meth:`stop` ends it whatever it is doing: login, TLS handshake, headers or body.

    :param url: where the server's pages begin.
    :param settings: how the server wants a login.
    :param plan: fetches the pages, calling :meth:`get`. What it got before a failure stays in ``pages``.
    :param context: how certificates are checked; False: the server does not speak TLS.
    :param login: the password or token for ``settings.web_auth``; default None: no login is sent.
    :ivar url: as given.
    :ivar pages: path -> body, of what was fetched.
    :ivar failed: why it ended early; None: it did not.
    """

    def __init__(
        self,
        url: str,
        settings: LoadConfig,
        plan: Callable[[Fetch], None],
        *,
        context: ssl.SSLContext | bool,
        login: str | None = None,
    ) -> None:
        self.url = url
        self.pages: dict[str, bytes] = {}
        self.failed: ProbeFailed | None = None
        self._settings, self._plan, self._context, self._login = settings, plan, context, login
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._stopped = False
        self._deadline = Deadline(0.0)
        self._seconds = 0.0
        self._client: httpx.Client | None = None

    def run(self, seconds: float, deadline: Deadline) -> None:
        """Fetch until done, failed or stopped; never raises.

        :param seconds: what the deadline was, for the error.
        :param deadline: when it has to be over.
        """
        import httpx

        self._seconds, self._deadline = seconds, deadline
        try:
            # No proxies, .netrc or certificates of this process's environment: a coordinator is asked directly.
            # No redirects: the password is for the configured host only. Nothing packed, which has no limit unpacked.
            with httpx.Client(
                auth=self._auth(),
                verify=self._context,
                trust_env=False,
                follow_redirects=False,
                headers={"Accept-Encoding": "identity"},
            ) as self._client:
                self._plan(self)
        except ProbeFailed as error:
            self.failed = error
        except Exception as error:
            # Not its text: who knows what of the request is in there.
            self.failed = ProbeFailed(f"{self.url}: {type(error).__name__}")
        finally:
            with self._lock:
                for connection in self._connections:
                    connection.close()
                self._connections.clear()

    def get(self, path: str) -> bytes:
        """This page's body, which also goes to ``pages``.

        :param path: behind the url.
        :raises ProbeFailed: it has none for us, or not in time.
        """
        import httpx

        remaining = self._deadline.remaining
        if remaining <= 0 or self._client is None:
            raise self._late()
        body = bytearray()
        try:
            with self._client.stream(
                "GET", self.url + path, timeout=remaining, extensions={"trace": self._note_connection}
            ) as answer:
                self._check(answer, path)
                for part in answer.iter_raw():
                    body += part
                    if len(body) > PAGE_LIMIT:
                        raise ProbeFailed(f"{self.url}: {path} is longer than {PAGE_LIMIT} bytes")
        except httpx.LocalProtocolError:
            raise ProbeFailed(f"{self.url}: load.web_user has a character that a header cannot hold") from None
        except httpx.TransportError as error:
            if self._stopped or isinstance(error, httpx.TimeoutException):
                raise self._late() from None
            # A malformed answer is quoted in the text, and could be what we sent.
            hung_up = isinstance(error, httpx.RemoteProtocolError)
            reason = "hung up, or does not speak HTTP" if hung_up else str(error) or type(error).__name__
            raise ProbeFailed(f"{self.url}: {reason}", refused=_is_refused(error)) from None
        self.pages[path] = bytes(body)
        return self.pages[path]

    def stop(self) -> None:
        """End it: its thread wakes up, and fails."""
        with self._lock:
            self._stopped = True
            for connection in self._connections:
                _end(connection)

    def _late(self) -> ProbeFailed:
        return ProbeFailed(f"{self.url}: no whole answer within {self._seconds:g} s")

    def _note_connection(self, event: str, details: dict[str, Any]) -> None:
        """httpcore calls this as the request goes on."""
        if event != "connection.connect_tcp.complete":
            return
        # A copy of the descriptor: TLS takes the socket object over, but what is connected is the same.
        connection = details["return_value"].get_extra_info("socket").dup()
        with self._lock:
            self._connections.append(connection)
            if self._stopped:
                _end(connection)

    def _auth(self) -> httpx.Auth | Callable[[httpx.Request], httpx.Request] | None:
        import httpx

        kind, user, login = self._settings.web_auth, self._settings.web_user, self._login
        if kind == "none" or login is None:
            return None
        if in_clear_text(self.url, kind):
            raise ProbeFailed(f"{self.url}: load.web_auth {kind} would send the secret in clear text; use https")
        if kind == "digest":
            return httpx.DigestAuth(user or "", login)
        if kind == "basic":
            return httpx.BasicAuth(user or "", login)

        # Refused here: the HTTP library quotes a header that it cannot send in its error and its log.
        if not re.fullmatch(r"[!-~]+", login):
            raise ProbeFailed(
                f"{self.url}: the token has a character that a header cannot hold (a line's end, perhaps)"
            )

        def bearer(request: httpx.Request) -> httpx.Request:
            request.headers["Authorization"] = f"Bearer {login}"
            return request

        return bearer

    def _check(self, answer: httpx.Response, path: str) -> None:
        status = answer.status_code
        if status == 200:
            return
        if status in (401, 403):
            if self._login is None:
                raise ProbeFailed(f"{self.url}: asks for a login ({status}); set load.web_auth to what it wants")
            who = f" as {self._settings.web_user}" if self._settings.web_user else ""
            raise ProbeFailed(f"{self.url}: refused the login by {self._settings.web_auth}{who} ({status})")
        if answer.is_redirect:
            raise ProbeFailed(f"{self.url}: answered {status}; redirects are not followed: give the final URL")
        raise ProbeFailed(f"{self.url}: answered {status} for {path}")


def _end(connection: socket.socket) -> None:
    with suppress(OSError):  # it has ended
        connection.shutdown(socket.SHUT_RDWR)


def fetch_all(fetches: Iterable[Fetch], seconds: float) -> None:
    """Run all at once. This returns in time, whatever the servers do.

    :param fetches: one for each server.
    :param seconds: after which it returns at the latest.
    """
    import httpx  # noqa: F401  # the first import takes 0.1 s, which must not count

    _be_quiet()
    deadline = Deadline(seconds)
    running = []
    for fetch in fetches:
        # Not a pool's threads: Python would wait at its exit for one that the resolver of names holds up.
        thread = threading.Thread(target=fetch.run, args=(seconds, deadline), name=THREAD_NAME, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads for this process
            fetch.failed = ProbeFailed(f"{fetch.url}: {error}")
        else:
            running.append((fetch, thread))
    for fetch, thread in running:
        thread.join(deadline.remaining)
        if thread.is_alive():
            fetch.failed = fetch.failed or ProbeFailed(f"{fetch.url}: no whole answer within {seconds:g} s")
            fetch.stop()


class _NotOurs(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.threadName != THREAD_NAME


_not_ours = _NotOurs()


def _be_quiet() -> None:
    """httpx logs a line for each request; a probe makes some for each node every few seconds, in a task's log."""
    logging.getLogger("httpx").addFilter(_not_ours)


def tls_context(settings: LoadConfig) -> ssl.SSLContext:
    """How certificates are checked.

    :param settings: its ``ca_cert`` and ``verify_cert``.
    :raises ProbeFailed: ``ca_cert`` cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_cert)
    except OSError as error:
        raise ProbeFailed(f"load.ca_cert: {settings.ca_cert}: {error.strerror or error}") from None
    if not settings.verify_cert:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
