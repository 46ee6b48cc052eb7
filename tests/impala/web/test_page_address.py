"""Where a coordinator's pages are asked for: no coordinator leads its clients, or their login, to another host."""

import dataclasses
import socket

import msgspec
import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.model import LoadConfig, Node
from airflow_provider_impala_lb.doctor.coordinators import check_nodes
from airflow_provider_impala_lb.impala.hs2 import session as module
from airflow_provider_impala_lb.impala.previous.leftover_sessions import is_gone
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed, pages_of
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import changed
from tests.support.web_servers import listener_on, page_server, raw_server


@pytest.fixture(scope="module")
def cluster():
    with Sandbox(nodes=1, lag=0) as cluster:
        yield cluster


@pytest.fixture
def led(monkeypatch):
    """Lets a coordinator name another address of its web pages, as one that somebody has taken over can."""

    def lead(address):
        def named(login, ask):
            opened = asked(login, ask)
            return dataclasses.replace(opened, configuration={**opened.configuration, "http_addr": address})

        asked = module.ask_anew
        monkeypatch.setattr(module, "ask_anew", named)

    return lead


def without_web(cluster, **keys):
    nodes = [{key: value for key, value in node.items() if key != "web"} for node in cluster.config["nodes"]]
    return changed(cluster, nodes=nodes, **keys)


def test_a_coordinator_that_names_another_host_is_not_followed(cluster, led, monkeypatch):
    monkeypatch.setenv("IMPALA_LB_WEB_PASSWORD", "s3cret")
    load = {"web_auth": "digest", "web_user": "ann"}
    with listener_on("127.0.0.2") as (address, asked):
        led(address)
        balancer = without_web(cluster, load=load)
        with balancer.sessions.open(cluster.nodes[0].address) as session, pytest.raises(ProbeFailed) as raised:
            session.pages.queries()
        assert "says that its web pages are on 127.0.0.2, which is not known to be the same host" in str(raised.value)
        found = {finding.name: finding for finding in check_nodes(balancer)}[f"web page of {cluster.nodes[0].address}"]
        assert (found.verdict, "name them by web" in found.remedy) == ("warning", True)
        assert asked == []


def test_the_login_goes_to_a_configured_address_only(cluster, led, monkeypatch):
    monkeypatch.setenv("IMPALA_LB_WEB_PASSWORD", "s3cret")
    load = {"web_auth": "digest", "web_user": "ann"}
    with listener_on("127.0.0.1") as (address, asked):
        led(address)
        found = {finding.name: finding for finding in check_nodes(without_web(cluster, load=load))}
        assert asked and {login for _, login in asked} == {None}
        web = found[f"web page of {cluster.nodes[0].address}"]
        assert web.verdict == "warning" and "asks for a login" in web.message
        nodes = [{**cluster.config["nodes"][0], "web": f"http://{address}"}]
        list(check_nodes(changed(cluster, nodes=nodes, load=load)))
        assert any("ann" in (login or "") for _, login in asked)


def test_the_doctor_takes_the_login_of_the_connection(cluster):
    """Not the environment's: the connection's `web_conn_id` counts before it."""
    with listener_on("127.0.0.1") as (address, asked):
        config = changed(cluster, nodes=[{**cluster.config["nodes"][0], "web": f"http://{address}"}]).config
        config = msgspec.structs.replace(config, load=LoadConfig(web_auth="digest", web_user="ann"))
        list(check_nodes(Balancer(config, password=cluster.config["session"].get("password"), web_password="s3cret")))
        assert any("ann" in (login or "") for _, login in asked)


def test_a_coordinators_own_pages_are_asked_without_a_configuration(cluster):
    with without_web(cluster).sessions.open(cluster.nodes[0].address) as session:
        assert session.web == cluster.nodes[0].web
        assert session.pages.version() >= (3, 4)
    (_, page) = check_nodes(without_web(cluster))
    assert (page.verdict, page.message) == ("ok", cluster.nodes[0].web)


@pytest.mark.parametrize(
    ("host", "named", "url"),
    [
        ("impala-1", "impala-1:25000", "http://impala-1:25000"),
        ("impala-1", "IMPALA-1.:25000", "http://impala-1:25000"),
        ("impala-1", "https://impala-1:25000", "https://impala-1:25000"),
        ("10.0.0.11", "impala-1:25001", "http://10.0.0.11:25001"),
        ("fd00::11", "[fd00::11]:25000", "http://[fd00::11]:25000"),
        ("impala-1", "file:///etc/passwd", None),
        ("impala-1", "ftp://impala-1:21", None),
        ("impala-1", "impala-1", None),
        ("impala-1", "impala-1:0", None),
        ("impala-1", "a@b:25000", None),
        ("impala-1", "x:25000/../y", None),
        ("impala-1", "", None),
        ("impala-1", None, None),
    ],
)
def test_what_a_coordinator_names_is_a_port_on_its_own_host(host, named, url):
    pages = pages_of(Node(host), named)
    assert (pages and pages.url) == url


@pytest.mark.parametrize(
    ("theirs", "same"), [({"10.0.0.11", "10.1.0.11"}, True), ({"10.0.0.12"}, False), (None, False)]
)
def test_a_name_and_an_address_may_be_one_host(monkeypatch, theirs, same):
    """The configuration has addresses, and ``--hostname`` is a name."""

    def resolve(host, *_):
        if host == "10.0.0.11":
            return [(None, None, None, "", (host, 0))]
        if theirs is None:
            raise socket.gaierror(-2, "Name or service not known")
        return [(None, None, None, "", (address, 0)) for address in theirs]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    pages = pages_of(Node("10.0.0.11"), "impala-1.example:25000")
    if same:
        pages._check_host()
    else:
        with pytest.raises(ProbeFailed, match=r"its web pages are on impala-1\.example, which is not known"):
            pages._check_host()


def test_a_configured_address_counts_whatever_the_coordinator_says():
    pages = pages_of(Node("impala-1", web="https://proxy:443/impala-1/"), "elsewhere:25000")
    assert pages.url == "https://proxy:443/impala-1"
    pages._check_host()


def test_gone_is_a_coordinator_whose_page_nobody_listens_at():
    """Its port is refused. Whatever else its page does may be something on the way: it proves nothing."""
    with page_server({"/?json": (503, "no healthy upstream")}) as (url, _):
        assert not is_gone(DebugPages(url, None, None))
    assert is_gone(DebugPages(url, None, None))  # and now nobody does
    assert is_gone(None)  # the port alone speaks
    with raw_server(lambda connection, over: over.wait(20)) as port:
        assert not is_gone(DebugPages(f"http://127.0.0.1:{port}", None, None))
