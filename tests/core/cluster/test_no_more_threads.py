"""A process that gets no more threads picks all the same, and keeps its leases as far as it can."""

import json
import subprocess
import sys

import pytest

from airflow_provider_impala_lb.core.config.store_url import parse_store
from airflow_provider_impala_lb.core.state.model import SessionRecord
from tests.support.components import lacking

# A stack that no memory has room for: the system refuses each new thread, in this process only.
PROGRAM = """
import json, logging, sys, threading
from airflow_provider_impala_lb import Balancer
logging.basicConfig(format="%(message)s")
config = json.loads(sys.argv[1])
threading.stack_size(1 << 46)
try:
    threading.Thread(target=print).start()
except RuntimeError as error:
    assert "can't start new thread" in str(error)
else:
    sys.exit("there are threads")
balancer = Balancer.from_config(config)
state = balancer.cluster.store.read
with balancer.acquire("a", session_key="k") as pick, balancer.acquire("b"):
    print(sorted(lease.owner for lease in state()[0].leases.values()))
    before = state()[0].leases.get(pick.lease).expires
    pick.note(query="1:2")
    print(state()[0].leases.get(pick.lease).expires > before)
    threading.stack_size(0)
    pick.note(query="1:3")
    print(any(thread.name == "impala-lb-leases" for thread in threading.enumerate()))
print(len(state()[0].leases))
"""


def test_a_pick_whose_lease_is_noted_goes_on_without_a_thread(tmp_path):
    config = {
        "nodes": [{"host": "a", "web": "http://127.0.0.1:9"}, "b"],
        "lock_file": str(tmp_path / "lock"),
        "mirror": "redis://127.0.0.1:9",
        "load": {"refresh": 10},
    }
    found = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(config)], capture_output=True, text=True)
    if "there are threads" in found.stderr:
        lacking("the system gives a thread any stack, so one that cannot be started is NOT tested")
    assert found.stdout.splitlines() == ["['a', 'b']", "True", "True", "0"], found.stderr
    assert found.stderr.count("Leases are renewed only when a statement begins") == 1
    assert found.stderr.count("session records are not copied for now") == 1


def test_the_mirror_does_not_wait_for_a_thread_that_cannot_be_had(monkeypatch):
    """The refusal is a mock's."""
    mirror_module = pytest.importorskip("airflow_provider_impala_lb.stores.redis.mirror")

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(mirror_module.threading.Thread, "start", refuse)
    mirror = mirror_module.RedisMirror(parse_store("redis://127.0.0.1:9"), "c")
    mirror.copy("k", SessionRecord(node="a:21050", expires=1.0))
    assert mirror.flush(3600) is False
