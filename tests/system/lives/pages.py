"""A coordinator's web pages as something between it and us may serve them: another's, old ones, a login, nothing."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class PagesBetween:
    """An HTTP server that passes requests on. A context manager.

    :param own: URL of the coordinator's pages
    :param other: URL of another coordinator's
    :ivar mode: as in `story.PAGES`
    """

    def __init__(self, own: str, other: str) -> None:
        self.mode = "well"
        self._own, self._other = own, other
        self._kept: dict[str, tuple[int, bytes]] = {}
        between = self

        class Request(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = between.answer(self.path)
                if answer is None:
                    self.close_connection = True
                    return
                status, body = answer
                self.send_response(status)
                if status == 401:
                    self.send_header("WWW-Authenticate", 'Basic realm="impala"')
                self.send_header("Content-Length", str(len(body)))
                with suppress(OSError):  # whoever asked has gone
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> PagesBetween:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def change(self, mode: str) -> None:
        """From now on they are so.

        :param mode: as in `story.PAGES`
        """
        if mode == "stale":
            self._kept["/queries?json"] = self._fetch(self._own, "/queries?json")
        self.mode = mode

    def answer(self, path: str) -> tuple[int, bytes] | None:
        """Status and body; None: the connection is closed without an answer.

        :param path: with the query
        """
        mode, queries = self.mode, path.startswith("/queries")
        if mode == "away":
            return None
        if mode == "login":
            return 401, b"who are you?"
        if mode == "error":
            return 503, b"later"
        if mode == "stale" and queries and path in self._kept:
            return self._kept[path]
        swapped = mode == "swapped" or (mode == "queries swapped" and queries)
        return self._fetch(self._other if swapped else self._own, path)

    def _fetch(self, url: str, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(url + path, timeout=6) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 502, b"nobody there"
