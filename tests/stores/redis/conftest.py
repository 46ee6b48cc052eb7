import pytest

from airflow_provider_impala_lb.stores.redis import client as redis_client
from tests.support.redis_relay import Relay
from tests.support.servers import eventually


@pytest.fixture
def relay(redis, monkeypatch):
    monkeypatch.setattr(redis_client, "TIMEOUT", 0.3)
    relay = Relay(redis.port)
    yield relay
    relay.close()


@pytest.fixture
def watched(start_redis, tmp_path):
    """A primary, its replica, and three sentinels, two of which have to agree that it is down after 0.5 s."""
    primary = start_redis(tmp_path)
    replica = start_redis(tmp_path, replicaof=f"127.0.0.1 {primary.port}")
    sentinels = [
        start_redis(
            tmp_path,
            sentinel=True,
            **{
                "sentinel monitor main": f"127.0.0.1 {primary.port} 2",
                "sentinel down-after-milliseconds main": "500",
                "sentinel failover-timeout main": "3000",
            },
        )
        for _ in range(3)
    ]
    eventually(lambda: "master_link_status:up" in replica.cli("INFO", "replication"))
    for sentinel in sentinels:
        eventually(lambda known=sentinel: "sentinels=3" in known.cli("INFO", "sentinel"))
        eventually(lambda known=sentinel: "slaves=1" in known.cli("INFO", "sentinel"), 15)
    url = "redis+sentinel://" + ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels) + "/main"
    return url, primary, replica, sentinels
