"""Web servers for tests of probes: ones that misbehave, and ones of given pages."""

import json
import socket
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def raw_server(talk):
    """A TCP server that does ``talk(connection, over)`` with each client, in a thread; the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=quietly, args=(connection,), daemon=True).start()

    def quietly(connection):
        with connection, suppress(OSError):
            talk(connection, over)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def page_server(pages):
    """An HTTP server of these pages, path -> (status, body) or (status, body, headers); its URL and what was asked."""
    asked = []

    class Request(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, dict(self.headers)))
            status, body, *headers = pages.get(self.path, (404, "no such page"))
            body = body if isinstance(body, str) else json.dumps(body)
            self.send_response(status)
            for name, value in (headers[0] if headers else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    with _serving("127.0.0.1", Request) as address:
        yield f"http://{address}", asked


@contextmanager
def listener_on(host):
    """A web server on another address of this host, as another host would be; what it was asked."""
    asked = []

    class Request(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            body = (
                b'{"is_quiescing": false, "process_start_time": ""}' if self.path == "/?json" else b""
            )  # one page is open, to invite to the others
            self.send_response(200 if body else 401)
            self.send_header("WWW-Authenticate", 'Digest realm="r", nonce="n"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with _serving(host, Request) as address:
        yield address, asked


@contextmanager
def _serving(host, handler):
    server = ThreadingHTTPServer((host, 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
