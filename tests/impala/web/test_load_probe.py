"""What nodes say of their load, over real HTTP."""

import contextlib
import ipaddress
import json
import logging
import threading
import time
from functools import partial

import pytest
from cryptography import x509
from impala.dbapi import connect

from airflow_provider_impala_lb.core.config.model import LoadConfig, Node
from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.state.load_report import ProbeResult
from airflow_provider_impala_lb.impala.web import http_fetch as fetch
from airflow_provider_impala_lb.impala.web import load_probe as probing
from airflow_provider_impala_lb.impala.web.load_probe import NotACoordinator, ProbeFailed
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.sandbox.common.web_access import open_page
from tests.support.servers import eventually
from tests.support.tls import Authority
from tests.support.web_servers import page_server, raw_server

ROOT = {"is_coordinator": True, "is_quiescing": False, "process_start_time": "2026-05-29 08:00:01.123456000"}
METRICS = {
    "impala-server.ready": True,
    "impala-server.num-queries-registered": 9,
    "impala-server.num-open-hiveserver2-sessions": 17,
    "impala-server.num-open-beeswax-sessions": 2,
    "impala.thrift-server.hiveserver2-frontend.connections-in-use": 16,
    "memory.rss": 60,
    "memory.total-used": 25,
    "mem-tracker.process.limit": 100,
    "jvm.heap.current-usage-bytes": 90,
    "jvm.heap.max-usage-bytes": 100,
}
FLAGS = {"flags": [{"name": "fe_service_threads", "current": "64"}]}
NO_LOGIN = LoadConfig()

# The deadline of 1 s, on a machine that has other work, is for the tests that are about it.
probe, probe_all = partial(probing.probe, seconds=20), partial(probing.probe_all, seconds=20)


@pytest.fixture(autouse=True)
def nothing_remembered():
    probing._limits.clear()


@pytest.fixture(scope="module")
def plain():
    with Sandbox(nodes=1, lag=0, metrics_port=True, users=None) as cluster:
        yield cluster


@pytest.fixture
def node(plain):
    yield plain.nodes[0]
    plain.nodes[0].set_load()


@pytest.fixture
def fresh():
    with Sandbox(nodes=1, lag=0, metrics_port=True, users=None) as cluster:
        yield cluster


def of(node, **urls):
    """The configured node of the sandbox's ``node``, with its web page unless ``urls`` say otherwise."""
    return Node(node.host, node.port, **(urls or {"web": node.web}))


def reason(node, settings=NO_LOGIN, password=None, **options):
    """Why it failed."""
    (found,) = probe_all([node], settings, password, **options).values()
    assert isinstance(found, str), found
    return found


def pages(root=ROOT, metrics=METRICS, flags=FLAGS):
    every = {"/?json": root, "/jsonmetrics?json": metrics, "/varz?json": flags}
    return {path: (200, body) for path, body in every.items() if body is not None}


def said(**changes):
    """What is made of these metrics."""
    metrics = {key: value for key, value in {**METRICS, **changes}.items() if value is not None}
    with page_server(pages(metrics=metrics)) as (url, _):
        return probe(Node("a", web=url), NO_LOGIN, None).sample


def test_a_coordinators_own_pages_make_a_sample(node):
    found = probe(of(node), NO_LOGIN, None)
    assert found.counters is None and found.missing == {}
    assert (found.sample.queries, found.sample.queued, found.sample.quiescing) == (0, 0, False)
    assert set(found.sample.shares) == {"memory", "heap", "connections", "admission"}
    assert all(0 < share <= 1 for share in found.sample.shares.values())


def test_the_shares_are_what_they_are_said_to_be():
    found = said()
    assert (found.queries, found.sessions, found.queued, found.quiescing) == (9, 19, 0, False)
    assert found.shares == pytest.approx({"memory": 0.75, "heap": 0.1, "connections": 0.75, "admission": 1.0})
    assert said(**{"memory.total-used": None}).shares["memory"] == pytest.approx(0.4)  # rss, if there is nothing better
    assert "memory" not in said(**{"mem-tracker.process.limit": -1}).shares
    assert "heap" not in said(**{"jvm.heap.max-usage-bytes": -1}).shares
    assert said(**{"memory.total-used": 120}).shares["memory"] == 0.0
    for no_number in ("much", True, float("nan"), float("inf")):
        assert "memory" not in said(**{"memory.total-used": no_number, "memory.rss": None}).shares


def test_the_admission_share_is_that_of_all_pools_which_may_queue():
    queued, limit = "admission-controller.local-num-queued.", "admission-controller.pool-max-queued."
    found = said(**{queued + "root.a": 30, limit + "root.a": 100, queued + "root.b": 20, limit + "root.b": 100})
    assert found.queued == 50
    assert found.shares["admission"] == pytest.approx(0.75)
    assert said(**{queued + "root.a": 0, limit + "root.a": 0}).shares["admission"] == 1.0
    assert said(**{queued + "root.a": 5}).shares["admission"] == 1.0


def test_real_connections_move_their_share(plain, node):
    before = probe(of(node), NO_LOGIN, None).sample.shares["connections"]
    opened = [connect(host=node.host, port=node.port, timeout=20) for _ in range(16)]
    try:
        cursors = [connection.cursor() for connection in opened]
        during = probe(of(node), NO_LOGIN, None).sample
        assert before - during.shares["connections"] == pytest.approx(16 / 64)
        assert during.sessions == len(cursors)
    finally:
        for connection in opened:
            connection.close()
    eventually(lambda: probe(of(node), NO_LOGIN, None).sample.shares["connections"] == before)


def test_a_real_query_is_counted_and_its_pool_appears(node):
    connection = connect(host=node.host, port=node.port, timeout=20)
    cursor = connection.cursor(configuration={"REQUEST_POOL": "root.batch"})
    cursor.execute_async("select sleep(60000)")
    try:
        found = probe(of(node), NO_LOGIN, None).sample
        assert (found.queries, found.queued, found.shares["admission"]) == (1, 0, 1.0)
        with open_page(node.web + "/jsonmetrics?json", "", 10) as page:
            assert json.load(page)["admission-controller.local-num-admitted-running.root.batch"] == 1
    finally:
        cursor.cancel_operation()
        cursor.close()
        connection.close()


def test_a_load_that_a_test_sets_is_said_until_it_is_taken_back(fresh):
    (node,) = fresh.nodes
    real = probe(of(node), NO_LOGIN, None).sample
    node.set_load(memory=0.95, heap=0.8, connections=48, queries=12, sessions=4, queued=150)
    for urls in ({"web": node.web}, {"web": node.web, "metrics": node.metrics}):
        found = probe(of(node, **urls), NO_LOGIN, None).sample
        assert found.shares == pytest.approx({"memory": 0.05, "heap": 0.2, "connections": 0.25, "admission": 0.25})
        assert (found.queries, found.sessions, found.queued) == (12, 4 + real.sessions, 150)
    node.set_load()
    assert probe(of(node), NO_LOGIN, None).sample.shares["memory"] == pytest.approx(real.shares["memory"], abs=0.01)


def test_the_metrics_port_needs_no_login_and_tells_less(node):
    found = probe(of(node, metrics=node.metrics), NO_LOGIN, None)
    assert set(found.sample.shares) == {"memory", "heap", "admission"}
    both = probe(of(node, web=node.web, metrics=node.metrics), NO_LOGIN, None)
    assert set(both.sample.shares) == {"memory", "heap", "admission", "connections"}
    # The web page alone wants a login that we do not have: what the metrics port says is enough.
    with page_server({}) as (url, _):
        found = probe(of(node, web=url, metrics=node.metrics), NO_LOGIN, None)
    assert found.sample.queries == 0
    assert found.missing == {"web": f"{url}: answered 404 for /?json"}


def test_a_node_that_shuts_down_says_so_though_it_calls_itself_healthy(fresh):
    (node,) = fresh.nodes
    node.drain()
    with open_page(node.web + "/healthz", "", 10) as page:
        assert page.status == 200
    assert probe(of(node), NO_LOGIN, None).sample.quiescing
    assert probe(of(node, web=node.web, metrics=node.metrics), NO_LOGIN, None).sample.quiescing
    assert not probe(of(node, metrics=node.metrics), NO_LOGIN, None).sample.quiescing


@pytest.mark.parametrize("auth", ["digest", "basic", "bearer"])
def test_each_login_of_impalas_web_server(auth, caplog):
    caplog.set_level(logging.DEBUG)
    with Sandbox(
        nodes=2, lag=0, web_auth=auth, web_users={"ann": "s3cret: ü"[: 9 if auth != "bearer" else 6]}
    ) as cluster:
        config = parse({**cluster.config, "load": {"web_auth": auth, "web_user": "ann"}})
        right = cluster._access.users["ann"]
        found = probe_all(config.nodes, config.load, right)
        assert set(found) == set(config.addresses)
        for reading in found.values():
            assert isinstance(reading, ProbeResult)
            assert set(reading.sample.shares) == {"memory", "heap", "connections", "admission"}
        first = config.nodes[0]
        assert f"refused the login by {auth} as ann (401)" in reason(first, config.load, "wr0ng")
        assert "has no IMPALA_LB_WEB_PASSWORD" in reason(first, config.load, None)
        assert "asks for a login (401); set load.web_auth" in reason(first, NO_LOGIN, right)
        bad = ""
        if auth == "bearer":
            bad = reason(first, config.load, f"{right}\nX: y")
            assert "the token has a character" in bad
        said = caplog.text + bad + repr(found) + repr(config) + reason(first, config.load, "wr0ng")
        assert right not in said and "wr0ng" not in said


def test_a_secret_never_crosses_the_network_in_clear_text():
    """Also where no configuration was checked."""
    node = Node("a", web="http://192.0.2.1:25000")
    for auth in ("basic", "bearer"):
        says = reason(node, LoadConfig(web_auth=auth, web_user="ann"), "s3cret")
        assert says == f"http://192.0.2.1:25000: load.web_auth {auth} would send the secret in clear text; use https"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_with_the_login_in_hand(status):
    with page_server(pages()) as (elsewhere, asked):
        away = {"/?json": (status, "", {"Location": elsewhere + "/?json"})}
        with page_server(away) as (url, _):
            settings = LoadConfig(web_auth="basic", web_user="ann")
            assert reason(Node("a", web=url), settings, "s3cret") == (
                f"{url}: answered {status}; redirects are not followed: give the final URL"
            )
    assert asked == []


def test_metrics_ports_and_exporters_never_get_the_login():
    settings = LoadConfig(web_auth="basic", web_user="ann")
    with page_server({**pages(), "/metrics": (200, "node_load1 0\n")}) as (url, asked):
        probe(Node("a", metrics=url, exporter=url), settings, "s3cret")
    assert {path for path, _ in asked} == {"/jsonmetrics?json", "/metrics"}
    assert not [headers for _, headers in asked if "Authorization" in headers]


def test_tls_with_the_sites_authority(tmp_path):
    site, other = Authority(tmp_path, "site"), Authority(tmp_path, "other")
    users = {"ann": "s3cret"}
    certificate = site.issue("right", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    with Sandbox(nodes=1, lag=0, web_auth="basic", web_users=users, web_certificate=certificate) as cluster:
        (node,) = cluster.nodes
        assert node.web.startswith("https://")
        node.set_load(memory=0.5)

        def settings(**keys):
            return LoadConfig(web_auth="basic", web_user="ann", **keys)

        found = probe(of(node), settings(ca_cert=str(site.file)), "s3cret")
        assert found.sample.shares["memory"] == pytest.approx(0.5)
        for wrong in (settings(), settings(ca_cert=str(other.file))):
            assert "certificate verify failed" in reason(of(node), wrong, "s3cret")
        assert probe(of(node), settings(verify_cert=False), "s3cret").sample.shares["memory"] == pytest.approx(0.5)
        missing = settings(ca_cert=str(tmp_path / "nowhere.pem"))
        assert reason(of(node), missing, "s3cret") == f"load.ca_cert: {tmp_path}/nowhere.pem: No such file or directory"
        assert reason(of(node), settings(ca_cert=__file__), "s3cret").startswith(f"load.ca_cert: {__file__}: ")
        node.drain()  # the sandbox's own way in
        assert probe(of(node), settings(ca_cert=str(site.file)), "s3cret").sample.quiescing


def test_tls_with_a_certificate_for_another_host(tmp_path):
    site = Authority(tmp_path, "site")
    certificate = site.issue("elsewhere", x509.DNSName("impala-13.example.com"))
    with Sandbox(nodes=1, lag=0, web_certificate=certificate) as cluster:
        (node,) = cluster.nodes
        says = reason(of(node), LoadConfig(ca_cert=str(site.file)))
        assert "certificate verify failed" in says and "127.0.0.1" in says
        assert probe(of(node), LoadConfig(ca_cert=str(site.file), verify_cert=False), None).sample.queries == 0


def silent(connection, over):
    over.wait(30)


def trickling_headers(connection, over):
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not over.wait(0.05):
        connection.sendall(b"x")


def trickling_body(connection, over):
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not over.wait(0.05):
        connection.sendall(b" ")


def trickling_login(connection, over):
    connection.recv(4096)
    connection.sendall(
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm=a, nonce=b\r\nContent-Length: 100000\r\n\r\n"
    )
    while not over.wait(0.05):
        connection.sendall(b" ")


def trickling_handshake(connection, over):
    """A TLS record of 16 kB, a byte at a time."""
    connection.recv(4096)
    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    while not over.wait(0.05):
        connection.sendall(b"\x00")


@pytest.mark.parametrize(
    ("talk", "scheme"),
    [
        (silent, "http"),
        (trickling_headers, "http"),
        (trickling_body, "http"),
        (trickling_login, "http"),
        (trickling_handshake, "https"),
    ],
)
def test_a_server_that_is_slow_in_any_way_holds_nobody_up(node, talk, scheme):
    settings = LoadConfig(web_auth="digest", web_user="ann")
    with raw_server(talk) as port:
        slow = [Node("slow", number, web=f"{scheme}://127.0.0.1:{port}") for number in range(1, 9)]
        start = time.monotonic()
        found = probing.probe_all([*slow, of(node)], settings, "s3cret")
        took = time.monotonic() - start
        assert took < 2.5
        assert isinstance(found[of(node).address], ProbeResult)
        for each in slow:
            assert found[each.address] == f"{each.web}: no whole answer within 1 s"
        # Nor do their threads stay.
        eventually(lambda: not [each for each in threading.enumerate() if each.name == fetch.THREAD_NAME], 5)


def test_flags_that_do_not_come_in_time_cost_only_their_share():
    def talk(connection, over):
        path = connection.recv(4096).split()[1].decode()
        if path == "/varz?json":
            over.wait(30)
            return
        body = json.dumps({"/?json": ROOT, "/jsonmetrics?json": METRICS}[path])
        connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    with raw_server(talk) as port:
        found = probe(Node("a", web=f"http://127.0.0.1:{port}"), NO_LOGIN, None, seconds=0.5)
    assert found.sample.queries == 9
    assert set(found.sample.shares) == {"memory", "heap", "admission"}


def test_flags_are_asked_for_once_for_each_start_of_the_coordinator():
    root = dict(ROOT)
    with page_server(pages(root=root)) as (url, asked):

        def flags_asked():
            asked.clear()
            assert probe(Node("a", web=url), NO_LOGIN, None).sample.shares["connections"] == 0.75
            return [path for path, _ in asked].count("/varz?json")

        assert [flags_asked(), flags_asked(), flags_asked()] == [1, 0, 0]
        root["process_start_time"] = "2026-05-30 08:00:00.000000000"
        assert [flags_asked(), flags_asked()] == [1, 0]


@pytest.mark.parametrize(
    ("served", "says"),
    [
        ({"/?json": (200, "<html>Welcome</html>")}, "is not Impala's: no JSON"),
        ({"/?json": (200, "[]")}, "is not Impala's: no JSON"),
        (pages(root={"hello": "world"}), "is not Impala's: neither is_quiescing nor process_start_time on /?json"),
        (pages(metrics={"up": 1}), "is not a coordinator's: no impala-server.ready on /jsonmetrics"),
        (pages(metrics={"impala-server.ready": False}), "impala-server.ready is false: it is starting"),
        (pages(metrics={"error": "No such thing"}), "No such thing"),
        (pages(metrics=None), "answered 404 for /jsonmetrics?json"),
        ({"/?json": (503, "")}, "answered 503 for /?json"),
        ({"/?json": (200, " " * (fetch.PAGE_LIMIT + 1))}, "/?json is longer than"),
    ],
)
def test_what_is_no_coordinators_web_server_is_told_apart(served, says):
    with page_server(served) as (url, _):
        found = reason(Node("a", web=url), seconds=5)
    assert found.startswith(f"{url}: {says}")


def test_nothing_that_a_node_says_or_a_configuration_holds_makes_a_probe_of_all_raise(node):
    strange = {
        "flags": pages(flags={"flags": [{}]}),
        "numbers": pages(metrics={**METRICS, "mem-tracker.process.limit": [1], "jvm.heap.max-usage-bytes": 10**400}),
    }
    nodes = [Node(f"url{n}", web=url) for n, url in enumerate(("http://[", "x", "http://a b", "http://\x00", ""))]
    nodes += [Node("exporter", exporter="http://["), of(node)]
    with page_server(strange["flags"]) as (flags, _), page_server(strange["numbers"]) as (numbers, _):
        nodes += [Node("flags", web=flags), Node("numbers", web=numbers)]
        found = probe_all(nodes, NO_LOGIN, None)
    assert set(found) == {each.address for each in nodes}
    right = [address for address, each in found.items() if isinstance(each, ProbeResult)]
    assert set(right) == {of(node).address, "flags:21050"}
    assert probe_all([], NO_LOGIN, None) == {}


def test_a_process_that_may_start_no_more_threads_is_told_so(node, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(fetch.threading.Thread, "start", start)
    assert reason(of(node)) == f"{node.web}: can't start new thread"


def test_an_executor_is_not_a_coordinator():
    with page_server(pages(root={**ROOT, "is_coordinator": False})) as (url, _):
        for node in (Node("a", web=url), Node("a", web=url, metrics=url)):
            with pytest.raises(NotACoordinator, match="^a:21050: is an executor, not a coordinator$"):
                probe(node, NO_LOGIN, None)


def ssh(connection, over):
    connection.recv(4096)
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def test_a_node_that_is_dead_or_has_no_address_is_named(node):
    with raw_server(silent) as port:
        pass
    assert "refused" in reason(Node("a", web=f"http://127.0.0.1:{port}"))
    assert reason(Node("a")).startswith("a:21050: has no web, metrics or exporter URL")
    with raw_server(ssh) as port:
        assert "hung up, or does not speak HTTP" in reason(Node("a", web=f"http://127.0.0.1:{port}"))
    with pytest.raises(ProbeFailed):
        probe(Node("a"), NO_LOGIN, None)


def test_an_exporter_that_is_down_costs_only_its_shares_but_a_coordinator_that_is_down_all(node):
    with page_server({"/metrics": (200, 'node_load1 0.5\nnode_cpu_seconds_total{cpu="0",mode="idle"} 1\n')}) as (
        url,
        _,
    ):
        found = probe(of(node, web=node.web, exporter=url), NO_LOGIN, None)
        assert found.sample.shares["cpu"] == 0.5 and found.counters is not None
        assert "404" in probe(of(node, web=node.web, exporter=url + "/other"), NO_LOGIN, None).missing["exporter"]
        with raw_server(silent) as port:
            dead = f"http://127.0.0.1:{port}"
            found = probing.probe(of(node, web=node.web, exporter=dead), NO_LOGIN, None)
            assert found.missing == {"exporter": f"{dead}: no whole answer within 1 s"}
            assert "cpu" not in found.sample.shares and "memory" in found.sample.shares
            assert reason(of(node, web=dead, exporter=url), seconds=1) == f"{dead}: no whole answer within 1 s"
    with page_server({"/metrics": (200, "<html>")}) as (url, _):
        assert "is not a node_exporter's page" in reason(of(node, exporter=url))


def test_requests_are_not_logged_but_other_peoples_are(node, caplog, monkeypatch):
    import httpx

    caplog.set_level(logging.INFO, logger="httpx")
    monkeypatch.setattr(logging.getLogger("httpx"), "disabled", False)  # as Airflow's own logging may leave it
    monkeypatch.setattr(logging.getLogger("httpx"), "propagate", True)
    probe(of(node), NO_LOGIN, None)
    assert "HTTP Request" not in caplog.text
    httpx.get(node.web + "/healthz")
    assert "HTTP Request" in caplog.text


def test_proxies_of_the_environment_are_not_asked(node, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with contextlib.suppress(KeyError):
        monkeypatch.delenv("NO_PROXY")
    assert probe(of(node), NO_LOGIN, None).sample.queries == 0
