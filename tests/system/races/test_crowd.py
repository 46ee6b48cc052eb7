"""A long queue, on one lock file: limits hold and the order stays, also when the lock is not free for long."""

import itertools
import os
import signal
import threading
import time

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.rules import queue
from airflow_provider_impala_lb.errors import NoNodeAvailable
from tests.support.crews import Crew

NODES = [f"n{index}" for index in range(10)]
FIELDS = 2  # begin and end of each one's work


SIZES = [  # processes, threads in each, slots
    pytest.param(4, 20, 8, id="80-wait"),
    pytest.param(10, 100, 100, id="1000-wait", marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    pytest.param(50, 100, 100, id="5000-wait", marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
]


class Crowd:
    """Scripts that wait while others hold all slots; each then works for a moment.

    :ivar spans: by number, when each began and ended its work.
    """

    def __init__(self, directory, processes, threads, slots):
        self.config = {"nodes": NODES, "lock_file": str(directory / "lock"), "max_leases": slots, "name": "crowd"}
        self.threads, self.slots, self.size = threads, slots, processes * threads
        self.crew = Crew(FIELDS * self.size)
        self.reports = memoryview(self.crew.memory).cast("d")
        self.balancer = Balancer.from_config(self.config)
        self.held = [self.balancer.acquire("held") for _ in range(slots)]
        for process in range(processes):
            self.crew.start(self._wait, process * threads)
        self._until(lambda: len(self.waiting()) == self.size, 120)
        self.places = {int(ticket.owner): index for index, ticket in enumerate(self.waiting())}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in list(self.crew.pids):
            self.crew.kill(pid)
        for pick in self.held:
            pick.release()

    def _wait(self, _, first):
        balancer = Balancer.from_config(self.config)
        threads = [threading.Thread(target=self._work, args=(balancer, first + index)) for index in range(self.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, balancer, number):
        with balancer.acquire(str(number), wait=600) as pick:
            assert "out of reach" not in pick.why
            self.reports[FIELDS * number] = time.monotonic()
            time.sleep(1)
            self.reports[FIELDS * number + 1] = time.monotonic()

    def _until(self, is_so, seconds):
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end
            time.sleep(0.1)

    def waiting(self):
        return queue.waiting(self.balancer.cluster.store.read()[0])

    def begin(self):
        for pick in self.held:
            pick.release()
        self.held = []

    def serve(self, times):
        """Wait until each slot has been used so often, or nobody waits any more."""
        wanted = min(times * self.slots, self.size)
        self._until(lambda: sum(begin > 0 for begin in self.reports[::FIELDS]) >= wanted, 200)

    def served(self):
        """The numbers of those who had a node, in the order in which they got it."""
        return sorted(
            (number for number in range(self.size) if self.reports[FIELDS * number]),
            key=lambda number: self.reports[FIELDS * number],
        )

    def most_at_once(self):
        begins, ends = ([time for time in self.reports[field::FIELDS] if time] for field in (0, 1))
        events = sorted([(begin, 1) for begin in begins] + [(end, -1) for end in ends])
        return max(itertools.accumulate(step for _, step in events))

    def check_order(self):
        """Of those whom a slot is kept for at the same time, and who look once a second, anybody may be first."""
        displaced = [abs(self.places[number] - index) for index, number in enumerate(self.served())]
        assert sorted(displaced)[len(displaced) // 2] <= self.slots
        assert max(displaced) <= 3 * self.slots + queue.FIRST


@pytest.mark.parametrize("processes, threads, slots", SIZES)
def test_a_long_queue_is_served_in_order_and_within_the_limit(tmp_path, processes, threads, slots):
    with Crowd(tmp_path, processes, threads, slots) as crowd:
        crowd.begin()
        crowd.serve(5)
        assert crowd.most_at_once() <= slots
        crowd.check_order()


@pytest.mark.slow
@pytest.mark.parametrize("processes, threads, slots", SIZES)
def test_a_stopped_holder_of_the_lock_lets_nobody_past_the_limit(tmp_path, processes, threads, slots):
    with Crowd(tmp_path, processes, threads, slots) as crowd:
        crowd.begin()
        crowd.serve(1)
        holder = Crew(1)
        pid = holder.start(stop_with_the_lock, crowd.config["lock_file"])
        try:
            crowd._until(lambda: is_stopped(pid), 30)
            time.sleep(7)  # longer than anybody waits for the lock
            before = len(crowd.served())
            os.kill(pid, signal.SIGCONT)
            crowd.serve(4)
        finally:
            holder.kill(pid)
        assert before < 2 * slots  # nobody could see who runs
        assert crowd.most_at_once() <= slots
        crowd.check_order()


def stop_with_the_lock(acks, path):
    with Balancer.from_config({"nodes": NODES, "lock_file": path}).cluster.store._lock.hold():
        os.kill(os.getpid(), signal.SIGSTOP)
    signal.pause()


def is_stopped(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] == "T"


@pytest.mark.slow
def test_who_cannot_wait_for_the_lock_reads_how_many_run(tmp_path):
    """In a process that has seen nothing of the state before."""
    config = {"nodes": NODES, "lock_file": str(tmp_path / "lock"), "max_leases": 2}
    held = [Balancer.from_config(config).acquire("held")]
    holder = Crew(1)
    pid = holder.start(stop_with_the_lock, config["lock_file"])
    try:
        while not is_stopped(pid):
            time.sleep(0.01)
        fresh = Balancer.from_config(config)
        held.append(fresh.acquire("second", wait=0))
        assert "out of reach" in held[1].why
        with pytest.raises(NoNodeAvailable, match="10 full"):
            fresh.acquire("third", wait=0)
    finally:
        holder.kill(pid)
    for pick in held:
        pick.release()
