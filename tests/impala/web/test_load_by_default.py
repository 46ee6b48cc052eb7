"""The nodes' load without a word about it in the configuration: real coordinators, real pages."""

import gzip
import ipaddress
import logging
import time

import pytest
from cryptography import x509

from airflow_provider_impala_lb.core.config.model import LoadConfig, Node
from airflow_provider_impala_lb.core.state.load_report import LoadSample, ProbeResult
from airflow_provider_impala_lb.impala.web.load_probe import probe_all
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.balancers import Clock, make
from tests.support.scripts import changed, run
from tests.support.tls import Authority
from tests.support.web_servers import listener_on, page_server, raw_server


def bare(cluster, **keys):
    """A list of hosts, and no more; they may take their time, as this machine may have other work."""
    balancer = changed(cluster, nodes=[node.address for node in cluster.nodes], load="auto", **keys)
    balancer.cluster.reports.prober = lambda nodes, named, counters: probe_all(
        nodes, LoadConfig(), None, 20, before=counters, named=named
    )
    return balancer


@pytest.mark.slow
def test_a_foreign_clients_work_counts_after_the_first_scripts():
    with Sandbox(nodes=2, lag=0) as cluster:
        balancer = bare(cluster)
        assert "0 of 2 nodes tell" in balancer.status()["load"]
        for _ in cluster.nodes:
            run(balancer, "SELECT 1")
        busy, idle = cluster.nodes
        foreign = [bare(cluster).sessions.open(busy.address) for _ in range(3)]
        for session in foreign:
            session.submit("SELECT sleep(60000)")
        end = time.monotonic() + 60
        while "2 of 2 nodes tell" not in (line := balancer.status()["load"]) and time.monotonic() < end:
            balancer.get_host()  # a pick has the nodes asked, and does not wait for it
            time.sleep(0.1)
        assert line == "auto, every 10 s: 2 of 2 nodes tell"
        balancer.cluster.reports.probe(now_anyway=True)
        assert {balancer.get_host() for _ in range(2)} == {idle.address}
        for session in foreign:
            session.close()


def test_pages_that_want_a_login_are_left_alone():
    with Sandbox(nodes=1, lag=0, web_auth="digest", web_users={"ann": "s3cret"}) as cluster:
        balancer = bare(cluster)
        run(balancer, "SELECT 1")
        [answer] = balancer.cluster.reports.probe().values()
        assert "asks for a login (401)" in answer
        assert "0 of 1 nodes tell" in balancer.status()["load"]
        assert "asks for a login (401); set load.web_auth to what it wants" in balancer.status()["load"]
        run(balancer, "SELECT 1")
        assert balancer.cluster.reports.probe() is None


def test_a_named_address_on_another_host_is_not_asked():
    with listener_on("127.0.0.2") as (address, asked):
        node = Node("127.0.0.1", 21050)
        [answer] = probe_all([node], LoadConfig(), None, 20, named={node.address: address}).values()
        assert "says that its web pages are on 127.0.0.2, which is not known to be the same host" in answer
        assert asked == []
        assert "is not known to be the same host" in asked_at("a" * 250 + ":25000")  # no name that DNS could hold


def test_a_login_is_never_sent_to_an_address_that_a_coordinator_has_named():
    settings = LoadConfig(web_auth="basic", web_user="ann")
    with listener_on("127.0.0.1") as (address, asked):
        node = Node("127.0.0.1", 21050)
        probe_all([node], settings, "s3cret", 20, named={node.address: address})
        assert asked and {login for _, login in asked} == {None}


def asked_at(url, **keys):
    node = Node("127.0.0.1", 21050)
    [answer] = probe_all(
        [node], LoadConfig(), None, 20, named={node.address: url.removeprefix("http://")}, **keys
    ).values()
    return answer


@pytest.mark.parametrize("said", ["\ud800", "\x1b[31m", "line\n[2026-11-28] INFO - forged"])
def test_what_a_page_says_breaks_no_log_and_no_other_nodes_report(said, caplog):
    caplog.set_level(logging.INFO)
    with page_server({"/?json": (200, {"error": said})}) as (url, _):
        answer = asked_at(url)
    assert "\n" not in answer and answer.isprintable()
    picker = make(Clock(), [{"host": f"n{i}", "web": "http://x"} for i in range(2)])
    picker.reports.prober = lambda *_: {"n0:21050": answer, "n1:21050": ProbeResult(LoadSample(queries=1))}
    picker.reports.probe()
    assert "1 of 2 nodes tell" in picker.status()["load"]
    assert len(caplog.messages[0].splitlines()) == 1


def test_a_page_is_not_unpacked():
    packed = gzip.compress(b'{"is_quiescing": false}')

    def talk(connection, _):
        heads.append(connection.recv(9999))
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(packed), packed)
        )

    heads = []
    with raw_server(talk) as port:
        assert "is not Impala's: no JSON" in asked_at(f"127.0.0.1:{port}")
    assert b"accept-encoding: identity" in heads[0].lower()


def test_certificates_are_checked_where_a_coordinator_names_https(tmp_path):
    certificate = Authority(tmp_path).issue("right", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    with Sandbox(nodes=1, lag=0, web_certificate=certificate) as cluster:
        assert "certificate verify failed" in asked_at(cluster.nodes[0].web)
