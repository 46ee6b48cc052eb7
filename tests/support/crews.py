"""Real processes that work on one store at the same time, and may be killed."""

import mmap
import os
import signal
import time
import traceback

import pytest

from airflow_provider_impala_lb.stores.file.store import FileStore
from airflow_provider_impala_lb.stores.redis.store import RedisStore

END_SECONDS = 120


def patient_store(config):
    """One that waits for its turn as long as that takes. After 5 s a process among many that do nothing else, on a
    machine that has other work, would pick without the state; which is what counts in a race."""
    if config.store is not None:
        return RedisStore(config.store, config.name, deadline=120)
    return FileStore(config.lock_file, deadline=120)


def exit_code(pid, seconds=END_SECONDS):
    """Of a child. Not waited for without an end: one whose thread waits in the kernel for a mount cannot end."""
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            pytest.fail(f"process {pid} has not ended within {seconds} s")
        time.sleep(0.005)


class Crew:
    """Forked workers that report by shared memory, so that a kill -9 loses nothing of what they had said."""

    def __init__(self, slots):
        self.memory = mmap.mmap(-1, 8 * slots)
        self.acks = memoryview(self.memory).cast("Q")  # an aligned 8-byte store cannot be torn
        self.pids = set()

    def start(self, work, *arguments):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                work(self.acks, *arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        self.pids.add(pid)
        return pid

    def kill(self, pid):
        self.pids.discard(pid)
        os.kill(pid, signal.SIGKILL)
        exit_code(pid)

    def join(self):
        for pid in list(self.pids):
            assert exit_code(pid) == 0
            self.pids.discard(pid)
