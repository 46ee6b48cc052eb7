"""Stands between a client and a Redis server, and takes a commit out of their hands."""

import socket
import threading
from contextlib import suppress


class Relay:
    """Passes bytes on between clients and a server, until ``fault`` takes a commit out of its hands."""

    def __init__(self, port):
        self.server_port = port
        self.fault = None
        self.commits = 0
        self.kept = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        server = socket.create_connection(("127.0.0.1", self.server_port))
        with suppress(OSError):
            while request := client.recv(1 << 20):
                if b":applied:" in request:  # only a commit names that key
                    self.commits += 1
                    if self.fault and self.fault(self, request, client, server) == "swallowed":
                        continue
                server.sendall(request)
                client.sendall(server.recv(1 << 20))
        client.close()

    def close(self):
        self.listener.close()


def closes(relay, request, client, server):
    """The server executes the commit; the connection breaks before its answer arrives."""
    server.sendall(request)
    server.recv(1 << 20)
    client.shutdown(socket.SHUT_RDWR)
    return "swallowed"


def stays_silent(relay, request, client, server):
    server.sendall(request)
    server.recv(1 << 20)
    return "swallowed"


def loses_the_request(relay, request, client, server):
    client.shutdown(socket.SHUT_RDWR)
    return "swallowed"


def delivers_late(relay, request, client, server):
    """The commit is still on its way when the client gives the connection up, and arrives after it was sent again."""
    relay.kept.append((request, server))
    client.shutdown(socket.SHUT_RDWR)
    return "swallowed"


def once(fault):
    def first(relay, *connection):
        relay.fault = None
        return fault(relay, *connection)

    return first
