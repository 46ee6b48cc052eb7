"""Real redis-server processes on free ports of 127.0.0.1, which end with the test, whatever becomes of it."""

import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager

from tests.support.components import lacking


def require_redis_server():
    if shutil.which("redis-server"):
        return
    lacking("redis-server is not installed (apt-get install redis-server): the store in Redis is NOT tested")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A cluster's nodes talk to each other on port + 10000.
    return port if port < 55000 else free_port()


class Server:
    """``redis-server`` with these options, each ``name=value`` as in its configuration file, with _ for -."""

    def __init__(self, directory, port=None, sentinel=False, **options):
        self.port = port or free_port()
        self.directory = directory / str(self.port)
        self.directory.mkdir(exist_ok=True)
        if options.get("tls_port") == "here":
            options["tls_port"], plain = self.port, 0
        else:
            plain = self.port
        lines = [f"port {plain}", "bind 127.0.0.1", f"dir {self.directory}"]
        if not sentinel:
            options = {"save": '""', "repl_diskless_sync_delay": 0, **options}
        lines += [f"{name.replace('_', '-')} {value}" for name, value in options.items()]
        (self.directory / "redis.conf").write_text("\n".join(lines) + "\n")
        self.sentinel = sentinel
        try:
            self.start()
        except BaseException:
            self.kill()
            raise

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def start(self):
        # The kernel kills it should this process be killed. No setsid: it belongs to the test.
        command = ["setpriv", "--pdeathsig", "KILL", "redis-server", str(self.directory / "redis.conf")]
        self.process = subprocess.Popen(
            command + (["--sentinel"] if self.sentinel else []),
            stdout=open(self.directory / "log", "a"),
            stderr=subprocess.STDOUT,
        )
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < until, "redis-server does not answer"
                time.sleep(0.01)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def cli(self, *arguments):
        return subprocess.run(
            ["redis-cli", "-p", str(self.port), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.strip()


@contextmanager
def running():
    """``start(directory, **options)`` for any number of servers."""
    require_redis_server()
    servers = []

    def start(directory, **options):
        server = Server(directory, **options)
        servers.append(server)
        return server

    try:
        yield start
    finally:
        for server in servers:
            server.kill()


def eventually(check, seconds=10.0):
    until = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def make_cluster(start, directory):
    """Three servers that are a Redis Cluster."""
    nodes = [start(directory, cluster_enabled="yes", cluster_node_timeout="1000") for _ in range(3)]
    addresses = [f"127.0.0.1:{node.port}" for node in nodes]
    nodes[0].cli("--cluster", "create", *addresses, "--cluster-yes")
    for node in nodes:
        eventually(lambda known=node: "cluster_state:ok" in known.cli("CLUSTER", "INFO"), 20)
    return nodes
