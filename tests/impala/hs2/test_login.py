"""Passwords and auth_mechanisms, right and wrong."""

import contextlib
import re
import socket
import threading

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable, StatementFailed
from airflow_provider_impala_lb.impala.hs2 import reconnecting_client
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import changed, rows_of, run


@pytest.fixture(scope="module")
def guarded():
    with Sandbox(nodes=2, lag=0, users={"etl": "s3cret"}) as cluster:
        yield cluster


def test_a_login_by_password(guarded):
    config = {**guarded.config, "session": {**guarded.config["session"], "user": "etl"}}
    done = run(Balancer.from_config(config, password="s3cret"), "SELECT effective_user()", handler=rows_of)
    assert done.results == [[("etl",)]]


def test_a_wrong_password_is_one_clear_error_without_it(guarded, log):
    config = {**guarded.config, "session": {**guarded.config["session"], "user": "etl", "auth_mechanism": "LDAP"}}
    with pytest.raises(ConfigError) as caught:
        run(Balancer.from_config(config, password="wr0ng"), "SELECT 1")
    assert re.search(r"127\.0\.0\.1:\d+: the login was refused \(user 'etl', auth_mechanism LDAP\)", str(caught.value))
    assert "wr0ng" not in str(caught.value)
    assert "wr0ng" not in log.text


def test_a_wrong_auth_mechanism_is_named(guarded):
    with pytest.raises(NoNodeAvailable, match="auth_mechanism NOSASL"):
        run(changed(guarded, session={"auth_mechanism": "NOSASL"}), "SELECT 1")
    with (
        Sandbox(nodes=2, lag=0, users=None) as anybody,
        pytest.raises(ConfigError, match="auth_mechanism PLAIN; does it speak another"),
    ):
        run(changed(anybody, session={"auth_mechanism": "PLAIN", "user": "x", "open_timeout": 2}), "SELECT 1")


class Doorman:
    """Passes connections on to a coordinator; or hangs up on a login, as one does whose directory server is away."""

    def __init__(self, node):
        self.refusing, self.refused = 0, 0
        self._node, self._open = node, []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def hang_up(self, refusing):
        """On all that are connected, and then on so many logins."""
        self.refusing = refusing
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                client = self._server.accept()[0]
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client):
        with contextlib.suppress(OSError), client:
            first = client.recv(4096)
            if not first:
                return  # nobody logs in
            if self.refusing:
                self.refusing, self.refused = self.refusing - 1, self.refused + 1
                return
            with socket.create_connection((self._node.host, self._node.port)) as server:
                self._open += [client, server]
                server.sendall(first)
                threading.Thread(target=self._copy, args=(server, client), daemon=True).start()
                self._copy(client, server)

    @staticmethod
    def _copy(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def doorman(guarded):
    doorman = Doorman(guarded.nodes[0])
    yield doorman
    doorman.close()


def with_doorman(guarded, doorman, monkeypatch):
    monkeypatch.setattr(reconnecting_client, "LOGIN_PAUSE", 0.2)
    config = {**guarded.config, "nodes": [f"127.0.0.1:{doorman.port}"]}
    config["lock_file"] = str(guarded.directory / f"doorman-{doorman.port}.tmp")
    config["session"] = {**config["session"], "user": "etl", "auth_mechanism": "LDAP", "reconnect_timeout": 20}
    return Balancer.from_config(config, password="s3cret")


def test_a_login_that_is_refused_for_a_moment_in_the_middle_of_a_script(guarded, doorman, monkeypatch):
    balancer = with_doorman(guarded, doorman, monkeypatch)
    done = run(balancer, "SELECT 1; SELECT 2", on_statement=lambda done: done.number == 1 and doorman.hang_up(2))
    assert len(done.statements) == 2
    assert doorman.refused == 2


def test_a_login_that_is_refused_for_good_is_not_tried_until_the_account_is_locked(guarded, doorman, monkeypatch):
    balancer = with_doorman(guarded, doorman, monkeypatch)
    with pytest.raises(StatementFailed, match=r"(?s)another auth_mechanism.*statement 1 is done"):
        run(balancer, "SELECT 1; SELECT 2", on_statement=lambda done: done.number == 1 and doorman.hang_up(1000))
    assert doorman.refused <= reconnecting_client.LOGIN_ATTEMPTS + 2  # to end the session, and for a new one


def test_a_change_whose_login_is_refused_before_it_is_sent_was_not_started(guarded, doorman, monkeypatch, log):
    balancer = with_doorman(guarded, doorman, monkeypatch)
    with pytest.raises(StatementFailed, match="so it was not sent") as failed:
        run(
            balancer,
            "CREATE TABLE IF NOT EXISTS first (n INT); CREATE TABLE second (n INT)",
            on_statement=lambda done: done.number == 1 and doorman.hang_up(1000),
        )
    assert (failed.value.number, failed.value.outcome) == (2, "not started")
    assert "was not seen to end" not in log.text
    assert not any("second" in entry.get("sql", "") for entry in guarded.nodes[0].journal())


def test_a_change_goes_on_in_a_new_session_once_the_login_is_taken_again(guarded, doorman, monkeypatch):
    balancer = with_doorman(guarded, doorman, monkeypatch)
    refused = reconnecting_client.LOGIN_ATTEMPTS + 1  # and to end the session
    script = "CREATE TABLE IF NOT EXISTS first (n INT); CREATE TABLE third (n INT)"
    run(balancer, script, on_statement=lambda done: done.number == 1 and doorman.hang_up(refused))
    assert sum("TABLE third" in entry.get("sql", "") for entry in guarded.nodes[0].journal()) == 1
