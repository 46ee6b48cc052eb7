"""The practice cluster's web logins, its metrics port, and the load that tests set."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from email.message import Message
from urllib.error import HTTPError
from urllib.request import HTTPDigestAuthHandler, HTTPPasswordMgrWithDefaultRealm, build_opener, urlopen

import pytest
from impala.error import HiveServer2Error

from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.sandbox.common.web_access import REALM, WebAccess, _md5
from tests.support.sandbox import Open, page, status_of


@pytest.fixture(scope="module")
def guarded() -> Iterator[Sandbox]:
    """Two coordinators whose web pages want Digest, with a metrics port each."""
    with Sandbox(nodes=2, lag=0, users=None, web_auth="digest", web_users={"ann": "pw"}, metrics_port=True) as cluster:
        yield cluster


def test_digest_as_another_client_speaks_it(guarded: Sandbox) -> None:
    node = guarded.nodes[0]
    assert status_of(node, "/healthz") == 401

    def status_as(user: str, password: str) -> int:
        passwords = HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, node.web, user, password)
        try:
            with build_opener(HTTPDigestAuthHandler(passwords)).open(
                f"{node.web}/jsonmetrics?json", timeout=10
            ) as answer:
                return int(answer.status)
        except (HTTPError, ValueError) as error:
            return error.code if isinstance(error, HTTPError) else 401

    assert [status_as("ann", "pw"), status_as("ann", "pW"), status_as("bob", "pw")] == [200, 401, 401]


def test_an_answer_to_another_challenge_or_for_another_page_is_refused(guarded: Sandbox) -> None:
    access = WebAccess("digest", {"ann": "pw"})

    def refused(nonce: str, page: str = "/") -> bool:
        """Is a GET of this page with the right answer for / to this nonce?"""
        first, second = _md5(f"ann:{REALM}:pw"), _md5("GET:/")
        response = _md5(f"{first}:{nonce}:1:c:auth:{second}")
        header = Message()
        header["Authorization"] = (
            f'Digest username="ann", nonce="{nonce}", uri="/", nc=1, cnonce="c", qop=auth, response="{response}"'
        )
        return access.challenge("GET", page, header) is not None

    challenge = access.challenge("GET", "/", Message())
    assert challenge is not None and challenge.startswith('Digest qop="auth", realm="mydomain.com", nonce="')
    nonce = challenge.split('nonce="')[1].rstrip('"')
    assert [refused(nonce), refused("mine"), refused(nonce, "/varz")] == [False, True, True]
    for garbage in ("Digest", "Digest =", "Basic !!!", "Basic", "Bearer", ""):
        request = guarded.nodes[0].web + "/?json"
        with pytest.raises(HTTPError, match="401"):
            opener = build_opener()
            opener.addheaders = [("Authorization", garbage)]
            opener.open(request, timeout=10)


def test_the_metrics_port_has_metrics_only_and_wants_no_login(guarded: Sandbox) -> None:
    node = guarded.nodes[0]
    assert node.metrics is not None
    assert guarded.config["nodes"][0]["metrics"] == node.metrics

    def get(path: str) -> tuple[int, bytes]:
        try:
            with urlopen(f"{node.metrics}{path}", timeout=10) as answer:
                return int(answer.status), answer.read()
        except HTTPError as error:
            return error.code, b""

    assert get("/healthz") == (200, b"OK")
    flat = json.loads(get("/jsonmetrics?json")[1])
    assert flat["impala-server.ready"] is True and flat["jvm.heap.max-usage-bytes"] > 0
    listed = json.loads(get("/metrics?json")[1])["metric_group"]["metrics"]
    assert "impala-server.num-queries-registered" in [each["name"] for each in listed]
    text = get("/metrics_prometheus")[1].decode()
    assert "\nimpala_memory_rss " in text and "\nimpala_server_num_queries_registered 0\n" in text
    assert "catalog_ready" not in text
    for path in ("/?json", "/varz?json", "/queries?json", "/cancel_query?query_id=1", "/close_session?session_id=1"):
        assert get(path)[0] == 404, path


def test_coordinators_still_reach_each_other(guarded: Sandbox, open_cursor: Open) -> None:
    first, second = guarded.nodes
    running, other = open_cursor(first), open_cursor(second)
    running.execute_async("select sleep(60000)")
    query_id = running.get_profile().split("Query (id=")[1].split(")")[0]
    other.execute(f"KILL QUERY '{query_id}'")
    with pytest.raises(HiveServer2Error, match="Cancelled"):
        running.status()


def test_a_restarted_coordinator_keeps_its_ports_and_a_drained_one_says_so(guarded: Sandbox) -> None:
    node = guarded.nodes[1]
    before = (node.web, node.metrics)
    node.kill()
    node.start()
    assert (node.web, node.metrics) == before
    node.drain()


def test_secrets_are_in_files_of_the_owner_only(guarded: Sandbox) -> None:
    assert stat.S_IMODE((guarded.directory / "private" / "web.json").stat().st_mode) == 0o600
    with open(f"/proc/{guarded.nodes[0].pid}/cmdline") as command:
        assert guarded._access.key not in command.read()
    assert guarded._access.key not in repr(guarded._access) and "pw" not in repr(guarded._access)


def test_without_options_all_is_as_it_was(plain: Sandbox) -> None:
    node = plain.nodes[0]
    assert node.web.startswith("http://") and node.metrics is None
    assert set(plain.config["nodes"][0]) == {"host", "port", "web"}
    assert status_of(node, "/healthz") == 200


def test_a_load_is_set_whole_and_taken_back(plain: Sandbox) -> None:
    node = plain.nodes[0]
    real = page(node, "/jsonmetrics")
    node.set_load(memory=0.5, connections=3)
    said = page(node, "/jsonmetrics")
    connections = "impala.thrift-server.hiveserver2-frontend.connections-in-use"
    assert said["memory.total-used"] == said["mem-tracker.process.limit"] // 2
    assert said[connections] == real[connections] + 3
    node.set_load(queries=2)
    said = page(node, "/jsonmetrics")
    assert said[connections] == real[connections]
    assert said["impala-server.num-queries-registered"] == real["impala-server.num-queries-registered"] + 2
    node.set_load()
    assert (
        page(node, "/jsonmetrics")["impala-server.num-queries-registered"]
        == (real["impala-server.num-queries-registered"])
    )
    for wrong in ({"memory": 1.5}, {"memory": -0.1}, {"connections": -1}):
        with pytest.raises(ValueError, match="=-?[0-9.]+: "):
            node.set_load(**wrong)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="web_auth='kerberos': one of none, digest, basic, bearer"):
        Sandbox(web_auth="kerberos")
    with pytest.raises(ValueError, match="web_auth and web_users: both, or neither"):
        Sandbox(web_auth="digest")
    with pytest.raises(ValueError, match="web_auth and web_users: both, or neither"):
        Sandbox(web_users={"ann": "pw"})
