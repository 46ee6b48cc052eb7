"""Old and new workers on one lock file, and on one Redis: in turn, and at the same time."""

import itertools
import shutil
from collections import Counter

import pytest

from tests.support.servers import eventually, running
from tests.support.two_versions import VERSIONS

pytestmark = pytest.mark.slow
NODES = ["n0:21050", "n1:21050", "n2:21050"]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Where the state lies, by name; without Redis where it is not installed."""
    found = {"file": {"lock_file": str(tmp_path_factory.mktemp("nas") / "node_in_use.tmp")}}
    if shutil.which("redis-server") is None:
        yield found
        return
    with running() as start:
        yield {**found, "redis": {"store": start(tmp_path_factory.mktemp("redis")).url}}


@pytest.fixture(scope="module", autouse=True)
def holders(places, start_worker):
    """Two leases in each place that are held from now on: each is renewed after 30 s, while other tests run."""
    workers, expires = [], {}
    for place, where in places.items():
        for version in VERSIONS:
            worker = start_worker(version)
            workers.append(worker)
            worker.ask("hold", config=config_of(where, "held"), owner=version)
        expires[place] = leases(workers[-1], config_of(where, "held"))
    yield expires
    for worker in workers:
        worker.kill()


@pytest.fixture(params=["file", "redis"])
def where(request, places, tmp_path):
    """A place for this test alone: a file of its own, or a name of its own on the server."""
    if request.param not in places:
        with running():  # says what is not tested now
            pass
    return {"lock_file": str(tmp_path / "node_in_use.tmp")} if request.param == "file" else places["redis"]


def config_of(where, name="", **keys):
    return {"name": name or f"versions{next(_numbers)}", "nodes": NODES, "policy": "round_robin", **where, **keys}


def leases(worker, config):
    return {lease["owner"]: lease["expires"] for lease in worker.ask("status", config=config)["leases"]}


def test_round_robin_goes_on_from_version_to_version(where, old, new):
    config = config_of(where)
    found = [worker.ask("picks", config=config, count=1)[0] for worker in (old, new, new, old) * 6]
    assert found == NODES * 8
    assert old.ask("status", config=config)["nodes"] == new.ask("status", config=config)["nodes"]


def test_no_pick_of_either_is_lost(where, start):
    config = config_of(where)
    workers = [start(version) for version in VERSIONS * 2]
    for worker in workers:
        worker.send("picks", config=config, count=150)
    handed_out = Counter(node for worker in workers for node in worker.answer())
    assert handed_out == dict.fromkeys(NODES, 200)
    for worker in workers[:2]:
        assert [node["picks"] for node in worker.ask("status", config=config)["nodes"]] == [200] * 3


def test_no_more_than_max_leases_run_of_both_together(where, start, tmp_path):
    config, log = config_of(where, max_leases=2, policy="least_loaded"), tmp_path / "log"
    workers = [start(version) for version in VERSIONS * 2]
    for number, worker in enumerate(workers):
        worker.send("lease_many", config=config, count=4, log=str(log), name=f"w{number}")
    for worker in workers:
        worker.answer()
    steps = [1 if line == "+" else -1 for line in log.read_text().splitlines()]
    at_once = list(itertools.accumulate(steps))
    assert (len(steps), at_once[-1], max(at_once)) == (32, 0, 2)
    for worker in workers[:2]:
        assert sum(node["picks"] for node in worker.ask("status", config=config)["nodes"]) == 16


def test_the_queue_is_one_in_the_order_in_which_they_came(where, old, new, start, tmp_path):
    config, log = config_of(where, max_leases=1), tmp_path / "log"
    old.ask("hold", config=config, owner="first")
    names = [f"{number} {version}" for number, version in enumerate(VERSIONS * 3)]
    workers = []
    for name in names:
        workers.append(start(name.split()[1]))
        workers[-1].send("wait_in_queue", config=config, owner=name, log=str(log))
        eventually(lambda: len(new.ask("status", config=config)["waiting"]) == len(workers))
    for worker in (old, new):
        assert [each["owner"] for each in worker.ask("status", config=config)["waiting"]] == names
    old.ask("end", owner="first")
    for worker in workers:
        worker.answer()
    assert log.read_text().splitlines() == names


@pytest.mark.parametrize("before", VERSIONS)
def test_a_session_key_stays_where_the_other_version_has_put_it(where, start, before):
    config = config_of(where)
    first, second = (start(version) for version in (VERSIONS if before == "old" else VERSIONS[::-1]))
    names = [f"key {number}" for number in range(7)]
    placed = first.ask("keys", config=config, names=names)
    assert len(set(placed.values())) == 3
    assert second.ask("keys", config=config, names=names[::-1]) == placed
    assert first.ask("keys", config=config, names=names) == placed


@pytest.mark.parametrize("operator", VERSIONS)
def test_an_operators_word_on_a_node_holds_for_both(where, old, new, operator):
    config, its = config_of(where), {"old": old, "new": new}[operator]
    its.ask("drain", config=config, node=NODES[1])
    for worker in (old, new):
        assert set(worker.ask("picks", config=config, count=6)) == {NODES[0], NODES[2]}
    its.ask("ready", config=config, node=NODES[1])
    for worker in (old, new):
        assert set(worker.ask("picks", config=config, count=6)) == set(NODES)


def test_a_dead_workers_lease_is_ended_by_the_other_version(where, start):
    config = config_of(where, max_leases=2, max_wait=30)  # it expires after 120 s
    for dying, other in (VERSIONS, VERSIONS[::-1]):
        victim, witness = start(dying), start(other)
        victim.ask("hold", config=config, owner="killed")
        witness.ask("hold", config=config, owner="lives")
        victim.kill()
        assert witness.ask("hold", config=config, owner="next")  # which has waited for it
        assert set(leases(witness, config)) == {"lives", "next"}
        for owner in ("lives", "next"):
            witness.ask("end", owner=owner)


@pytest.mark.parametrize("place", ["file", "redis"])
def test_what_one_renews_the_other_sees_renewed(places, holders, old, new, place):
    """The last test of this file: it has to wait for what is left of 30 s."""
    if place not in places:
        pytest.skip("redis-server is not installed")
    config = config_of(places[place], "held")
    assert set(holders[place]) == {"old", "new"}
    for worker in (old, new):
        eventually(lambda seen=worker: all(leases(seen, config)[who] > holders[place][who] for who in VERSIONS), 60)
