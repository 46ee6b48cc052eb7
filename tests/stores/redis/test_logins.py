"""Each server is told its own password, and no other's."""

import socket
import threading

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import StateUnavailable

VARIABLES = {
    f"IMPALA_LB_{name}PASSWORD": f"<{name.lower()}s3cret>"
    for name in ("", "STORE_", "SENTINEL_", "MIRROR_", "MIRROR_SENTINEL_", "WEB_")
}


@pytest.fixture
def server():
    """Answers nothing, and keeps what it is told."""
    told, connections = [], []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            told.append(connection.recv(65536))
            connection.close()

    thread = threading.Thread(target=accept)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}", told
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def secrets_in(told):
    return {value for value in VARIABLES.values() if value.encode() in b"".join(told)}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("redis://{}", {"<mirror_s3cret>"}),
        ("redis://:given@{}", set()),
        ("redis+sentinel://{}/main", {"<mirror_sentinel_s3cret>"}),
    ],
)
def test_the_mirror_is_not_told_the_stores_password(server, tmp_path, form, expected):
    address, told = server
    keys = {"nodes": ["a", "b"], "lock_file": str(tmp_path / "lock"), "mirror": form.format(address)}
    assert Balancer.from_config(keys).pick(session_key="k").host
    assert told and secrets_in(told) == expected


@pytest.mark.parametrize(
    ("form", "expected"),
    [("redis://{}", {"<store_s3cret>"}), ("redis+sentinel://{}/main", {"<sentinel_s3cret>"})],
)
def test_the_store_is_told_its_own(server, form, expected):
    address, told = server
    balancer = Balancer.from_config({"nodes": ["a", "b"], "store": form.format(address)})
    balancer.cluster.store._client.deadline = 0.1
    with pytest.raises(StateUnavailable):
        balancer.cluster.store.transact(lambda state, now: None)
    assert told and secrets_in(told) == expected
