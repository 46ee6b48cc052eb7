"""What only one host lacks or has wrong (names, routes, files, logins) is not held against the nodes by the others."""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.state.model import Ejection
from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import left_out, run
from tests.support.tls import Authority, Front


@pytest.fixture(scope="module")
def cluster():
    """Whoever comes may log in, or not."""
    with Sandbox(nodes=3, lag=0, users=None) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def guarded():
    with Sandbox(nodes=3, lag=0, users={"etl": "s3cret"}) as cluster:
        yield cluster


def host_of(cluster, lock_file, nodes=None, password="s3cret", **session):
    """A host's balancer; hosts with the same lock file share their state."""
    config = {**cluster.config, "lock_file": str(lock_file), "policy": "round_robin"}
    config["nodes"] = nodes or config["nodes"]
    config["session"] = {**config["session"], "user": "etl", "open_timeout": 2, **session}
    return Balancer.from_config(config, password=password)


def nothing_is_noted(right):
    """The other host's picks go on as if there had been nothing."""
    status = right.status()
    assert [node["state"] for node in status["nodes"]] == ["ready"] * len(status["nodes"])
    picks = [right.get_host() for _ in range(6)]
    assert {picks.count(address) for address in right.config.addresses} == {6 // len(right.config.addresses)}


def address_of(node):
    return f"{node['host']}:{node['port']}" if isinstance(node, dict) else node


def test_a_ca_file_that_is_not_there_is_an_error_of_this_hosts_configuration(cluster, tmp_path):
    right = host_of(cluster, tmp_path / "lock")
    not_pem = tmp_path / "not.pem"
    not_pem.write_text("nothing of that kind")
    for path, why in ((tmp_path / "nosuch.pem", "No such file"), (not_pem, "no certificate"), (tmp_path, "directory")):
        wrong = host_of(cluster, tmp_path / "lock", use_ssl=True, ca_cert=str(path))
        for _ in range(2):
            with pytest.raises(ConfigError, match=f"session.ca_cert: {path}: .*{why}.*on this host, .*nothing was"):
                run(wrong, "SELECT 1")
    nothing_is_noted(right)


def test_a_client_library_that_is_missing(cluster, tmp_path):
    if find_spec("kerberos"):
        pytest.skip("kerberos is installed")
    wrong = host_of(cluster, tmp_path / "lock", auth_mechanism="GSSAPI")
    with pytest.raises(ConfigError, match=r"session.auth_mechanism GSSAPI: cannot be used here: .*package kerberos"):
        run(wrong, "SELECT 1")
    nothing_is_noted(host_of(cluster, tmp_path / "lock"))


def test_a_name_that_only_this_host_cannot_resolve(cluster, tmp_path, log):
    """Another host may know it: its DNS, or its /etc/hosts, says so."""
    nodes = ["no-such-host.invalid:21050", *cluster.config["nodes"][1:]]
    wrong = host_of(cluster, tmp_path / "lock", nodes)
    assert run(wrong, "SELECT 1").node == address_of(nodes[1])
    (said,) = left_out(log)
    assert not [record for record in log.records if record.name.startswith("thrift.")]  # one line says it
    assert "the name no-such-host.invalid cannot be resolved here" in said and "not held against the node" in said
    nothing_is_noted(wrong)


def test_who_cannot_resolve_a_name_leaves_its_trial_to_others(cluster, tmp_path):
    nodes = ["x" * 64 + ".invalid:21050", *cluster.config["nodes"][1:]]
    wrong = host_of(cluster, tmp_path / "lock", nodes)

    def eject(state, now):
        state.node(nodes[0]).ejection = Ejection("failure", "it was down", now - 1, at=now - 11, by=["one", "two"])

    wrong.cluster.store.transact(eject)
    assert run(wrong, "SELECT 1").node == address_of(nodes[1])
    (why,) = [node["why"] for node in wrong.status()["nodes"] if node["node"] == nodes[0]]
    assert why == "it was down (failure, said by one, two; due for a trial)"


def test_a_name_that_can_be_none(cluster, tmp_path):
    wrong = host_of(cluster, tmp_path / "lock", ["x" * 64 + ".invalid", *cluster.config["nodes"][1:]])
    assert run(wrong, "SELECT 1").node == address_of(cluster.config["nodes"][1])
    nothing_is_noted(wrong)


def test_a_node_that_answers_garbage_is_noted_once_another_one_does_better(cluster, tmp_path):
    """Here a whole frame that is no answer of HiveServer2."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection = server.accept()[0]
                    connection.recv(4096)
                    connection.sendall(b"\x80\x01\x00\x02\x00\x00\x00\x0bOpenSession" + b"\xff" * 64)

        threading.Thread(target=serve, daemon=True).start()
        nodes = [f"127.0.0.1:{server.getsockname()[1]}", *cluster.config["nodes"][1:]]
        balancer = host_of(cluster, tmp_path / "lock", nodes, open_timeout=3)
        assert run(balancer, "SELECT 1").node == address_of(nodes[1])
        assert [node["state"] for node in balancer.status()["nodes"]] == ["ejected", "ready", "ready"]


def test_when_this_host_can_resolve_nothing_the_task_fails_and_nobody_else_is_told(cluster, tmp_path):
    nodes = [f"no-such-host-{index}.invalid" for index in range(3)]
    wrong = host_of(cluster, tmp_path / "lock", nodes)
    with pytest.raises(NoNodeAvailable, match=r"cannot be resolved here") as caught:
        run(wrong, "SELECT 1")
    assert len(caught.value.reasons) == 3
    nothing_is_noted(wrong)


IN_A_NETWORK_OF_ITS_OWN = """
import json, sys
from airflow_provider_impala_lb import Balancer
from tests.support.scripts import script_run
from airflow_provider_impala_lb.impala.sql.splitter import split
try:
    script_run(Balancer.from_config(json.loads(sys.argv[1])), split("SELECT 1")).run()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("how", ["no route at all", "a route that says unreachable"])
def test_a_host_without_a_route(tmp_path, how):
    """192.0.2.0/24 is nobody's (RFC 5737); nothing is sent."""
    config = {"nodes": ["192.0.2.1", "192.0.2.2"], "lock_file": str(tmp_path / "lock"), "policy": "round_robin"}
    route = "" if how == "no route at all" else "ip link set lo up && ip route add unreachable 192.0.2.0/24 && "
    python = [sys.executable, "-c", IN_A_NETWORK_OF_ITS_OWN, json.dumps(config)]
    shell = ["unshare", "-n", "sh", "-c", f'{route}exec "$@"', "sh"]
    if subprocess.run([*shell, "true"], capture_output=True).returncode:
        if os.environ.get("CI"):
            pytest.fail("no network namespace can be made here")
        pytest.skip("no network namespace can be made here: a host without a route is NOT tested")
    done = subprocess.run([*shell, *python], capture_output=True, text=True, timeout=60, check=True)
    assert "NoNodeAvailable" in done.stdout and "cannot be reached from here" in done.stdout, done.stdout + done.stderr
    nothing_is_noted(Balancer.from_config(config))


def test_a_process_without_file_descriptors(cluster, tmp_path):
    """The lock file needs one, the socket a second one."""
    right = host_of(cluster, tmp_path / "lock")
    wrong = host_of(cluster, tmp_path / "lock")
    run(wrong, "SELECT 1")  # all that is imported on the way
    taken = []
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    node = wrong.get_host()
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(Exception, match="Too many open files") as caught:
            wrong.sessions.open(node)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caught.value.fault == "client"
    nothing_is_noted(right)


def test_a_wrong_password_is_this_hosts_mistake_once_a_second_node_says_so(guarded, tmp_path):
    right = host_of(guarded, tmp_path / "lock")
    wrong = host_of(guarded, tmp_path / "lock", password="wr0ng")
    for _ in range(2):
        with pytest.raises(ConfigError, match="login was refused") as caught:
            run(wrong, "SELECT 1")
        assert sum(node.address in str(caught.value) for node in guarded.nodes) == 2
        assert "wr0ng" not in str(caught.value)
        with pytest.raises(ConfigError, match="login was refused"):
            wrong.connect()
    nothing_is_noted(right)
    assert right.status()["leases"] == []


@pytest.mark.parametrize("mechanism", ["NOSASL", "PLAIN"])
def test_a_wrong_auth_mechanism_is_this_hosts_mistake(cluster, guarded, tmp_path, mechanism):
    there = guarded if mechanism == "NOSASL" else cluster
    right = host_of(there, tmp_path / "lock")
    kind = NoNodeAvailable if mechanism == "NOSASL" else ConfigError  # without a login nothing was refused for sure
    with pytest.raises(kind, match=f"auth_mechanism {mechanism}; does it speak another auth_mechanism"):
        run(host_of(there, tmp_path / "lock", auth_mechanism=mechanism), "SELECT 1")
    nothing_is_noted(right)


def test_silence_during_a_login_is_not_noted_by_a_host_that_nobody_answers(cluster, tmp_path):
    """So Impala meets a mechanism that it was not started with: it takes SASL's first bytes for a length."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        nodes = [f"127.0.0.1:{server.getsockname()[1]}" for server in (first, second)]
        wrong = host_of(cluster, tmp_path / "lock", nodes, auth_mechanism="LDAP", open_timeout=0.5)
        with pytest.raises(NoNodeAvailable, match="stayed silent"):
            run(wrong, "SELECT 1")
        nothing_is_noted(wrong)


@pytest.fixture(params=["Bad status", "hangs up"])
def broken_login(request, guarded):
    """A coordinator that refuses every login, as HiveServer2 says it, or as Impala does: without a word."""
    if request.param == "Bad status":
        with Sandbox(nodes=1, lag=0, users={"etl": "another"}) as cluster:
            yield cluster.config["nodes"][0]
        return
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                threading.Thread(target=hang_up, args=(connection,), daemon=True).start()

        def hang_up(connection):
            with connection:
                read = b""
                while len(read) < 12 and (more := connection.recv(100)):
                    read += more

        threading.Thread(target=serve, daemon=True).start()
        yield {"host": "127.0.0.1", "port": server.getsockname()[1]}
        server.shutdown(socket.SHUT_RDWR)


def test_a_node_whose_login_is_broken_is_left_and_then_left_out(guarded, broken_login, tmp_path, log):
    nodes = [broken_login, *guarded.config["nodes"][:2]]
    hosts = [host_of(guarded, tmp_path / "lock", nodes) for _ in range(3)]
    done = [run(hosts[index % 3], "SELECT 1") for index in range(6)]
    assert address_of(broken_login) not in {each.node for each in done}
    assert len(left_out(log)) == 1  # the others were told
    states = {node["node"]: (node["state"], node["why"]) for node in hosts[2].status()["nodes"]}
    state, why = states.pop(address_of(broken_login))
    assert state == "ejected" and f"{done[0].node} took what it refused" in why
    assert {state for state, _ in states.values()} == {"ready"}
    with hosts[0].connect() as connection:
        assert connection.pick.node != address_of(broken_login)


def test_a_cluster_of_one_that_refuses_the_login(guarded, tmp_path):
    wrong = host_of(guarded, tmp_path / "lock", guarded.config["nodes"][:1], password="wr0ng")
    with pytest.raises(ConfigError, match="the login was refused"):
        run(wrong, "SELECT 1")


@pytest.mark.parametrize("way", ["wait", "fail"])
def test_a_sticky_host_that_refuses_the_login_is_judged_by_another(guarded, broken_login, tmp_path, way):
    nodes = [*guarded.config["nodes"][:2], broken_login]
    stick = {"prefer": address_of(broken_login), "on_unavailable": way}
    right = host_of(guarded, tmp_path / "lock", nodes, reconnect_timeout=1)
    with pytest.raises(NoNodeAvailable, match="The host to stick to"):
        run(right, "SELECT 1", **stick)
    assert [node["state"] for node in right.status()["nodes"]] == ["ready", "ready", "ejected"]
    stick["prefer"] = address_of(nodes[0])
    wrong = host_of(guarded, tmp_path / "other", nodes[:2], password="wr0ng", reconnect_timeout=60)
    with pytest.raises(ConfigError, match="login was refused"):
        run(wrong, "SELECT 1", **stick)


@pytest.fixture
def secured(cluster, tmp_path):
    """The coordinators behind TLS, all but the first; and what signed their certificates."""
    authority = Authority(tmp_path)
    fronts = [Front(authority.context(), node.port) for node in cluster.nodes]
    yield authority, fronts, cluster
    for front in fronts:
        front.close()


def nodes_of(fronts):
    return [{"host": "127.0.0.1", "port": front.port} for front in fronts]


def test_a_wrong_ca_file_is_this_hosts_mistake(secured, tmp_path):
    authority, fronts, cluster = secured
    nodes = nodes_of(fronts)
    right = host_of(cluster, tmp_path / "lock", nodes, use_ssl=True, ca_cert=str(authority.file))
    assert run(right, "SELECT 1").node == address_of(nodes[0])
    other = Authority(tmp_path, "another CA")
    wrong = host_of(cluster, tmp_path / "lock", nodes, use_ssl=True, ca_cert=str(other.file))
    for _ in range(2):
        with pytest.raises(ConfigError, match="certificate was not accepted") as caught:
            run(wrong, "SELECT 1")
        assert str(other.file) in str(caught.value) and "session.ca_cert" in str(caught.value)
    plain = host_of(cluster, tmp_path / "lock", nodes)
    with pytest.raises((ConfigError, NoNodeAvailable), match="does it (want|speak)"):
        run(plain, "SELECT 1")
    nothing_is_noted(right)


@pytest.mark.parametrize("fault", ["expired", "another authority", "another name", "no TLS"])
def test_a_node_whose_tls_is_broken_is_left_and_then_left_out(secured, tmp_path, fault):
    authority, fronts, cluster = secured
    context = {
        "expired": lambda: authority.context(days=-1),
        "another authority": lambda: Authority(tmp_path, "another CA").context(),
        "another name": lambda: authority.context(host="127.0.0.2"),
        "no TLS": lambda: None,
    }[fault]()
    bad = Front(context, cluster.nodes[0].port) if context else None
    nodes = [{"host": "127.0.0.1", "port": bad.port if bad else cluster.nodes[0].port}, *nodes_of(fronts[1:])]
    balancer = host_of(cluster, tmp_path / "lock", nodes, use_ssl=True, ca_cert=str(authority.file))
    assert run(balancer, "SELECT 1").node == address_of(nodes[1])
    first, *others = balancer.status()["nodes"]
    assert first["state"] == "ejected" and "took what it refused" in first["why"]
    assert {node["state"] for node in others} == {"ready"}
    if bad:
        bad.close()
