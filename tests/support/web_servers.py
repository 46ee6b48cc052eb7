"""Web servers for tests of probes: ones that misbehave, and certificates made on the spot."""

import json
import socket
import subprocess
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """A certificate authority: ``ca_cert`` is its own certificate."""

    def __init__(self, directory, name):
        self.directory, self.name = directory, name
        self.ca_cert, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-keyout", self.key, "-out", self.ca_cert),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),  # Python 3.13 insists on it (VERIFY_X509_STRICT)
        )

    def issue(self, name, alternative):
        """A PEM file with a certificate for e.g. ``IP:127.0.0.1`` and its key."""
        key, request, both = (self.directory / f"{self.name}-{name}.{kind}" for kind in ("key", "csr", "both"))
        extensions = self.directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\nauthorityKeyIdentifier=keyid\n")
        openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={name}", "-keyout", key, "-out", request),
        )
        openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca_cert, "-CAkey", self.key, "-CAcreateserial"),
            *("-days", "2", "-extfile", extensions, "-out", both),
        )
        both.write_text(both.read_text() + key.read_text())
        return both
