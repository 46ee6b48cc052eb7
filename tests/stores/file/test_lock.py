import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from airflow_provider_impala_lb.errors import StateUnavailable
from airflow_provider_impala_lb.stores.file.lock import Lock

HOLD = """
import sys, time
from airflow_provider_impala_lb.stores.file.lock import Lock
with Lock(sys.argv[1]).hold():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "lock")


@pytest.fixture
def holder(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lock_that_is_not_free_in_time_names_the_file_and_the_wait(path, holder):
    start = time.monotonic()
    with (
        pytest.raises(StateUnavailable, match=rf"{path}: its lock was not free within 0\.\d s"),
        Lock(path, 0.3).hold(),
    ):
        pass
    assert 0.3 <= time.monotonic() - start < 2


def test_a_stopped_holder_is_no_hang(path, holder):
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(StateUnavailable), Lock(path, 0.2).hold():
        pass
    holder.send_signal(signal.SIGCONT)


def test_a_killed_holder_frees_it_at_once(path, holder):
    holder.kill()
    holder.wait()
    with Lock(path, 0.0).hold():
        pass


def test_threads_exclude_each_other(path):
    inside, worst = 0, 0

    def work():
        nonlocal inside, worst
        for _ in range(20):
            with Lock(path).hold():
                inside += 1
                worst = max(worst, inside)
                time.sleep(0.0005)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == 1


def test_a_child_forked_in_the_middle_of_a_hold_does_not_keep_it(path):
    """The child lives on; its parent is killed while it holds the lock: the lock must be free."""
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        with Lock(path).hold():
            child = os.fork()
            if child == 0:
                os.write(write, b"%d\n" % os.getpid())
                time.sleep(60)
                os._exit(0)
            time.sleep(60)
        os._exit(0)
    child = int(os.read(read, 20))
    try:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        with Lock(path, 0.0).hold():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(read)
        os.close(write)


def test_a_fork_in_the_middle_leaves_the_parents_lock_alone(path):
    with Lock(path).hold():
        child = os.fork()
        if child == 0:
            os._exit(0)  # closes its copies of everything, as any exit does
        os.waitpid(child, 0)
        with pytest.raises(StateUnavailable), Lock(path, 0.1).hold():
            pass
    with Lock(path, 0.0).hold():
        pass


def test_a_file_deleted_while_waiting_is_opened_anew(path):
    first = Lock(path)
    with first.hold():
        waiter_got = []
        waiter = threading.Thread(target=lambda: waiter_got.append(inode_of(Lock(path))))
        waiter.start()
        time.sleep(0.1)
        os.unlink(path)
    waiter.join()
    assert waiter_got == [os.stat(path).st_ino]


def inode_of(lock):
    with lock.hold() as descriptor:
        return os.fstat(descriptor).st_ino


def test_a_stale_name_is_looked_up_until_the_deadline(path, monkeypatch):
    """A stand-in for a mount that goes on answering with a file another host has removed (GlusterFS, NFS)."""
    looks, real = [], os.open

    def stale(name, *args, **options):
        if name == path:
            looks.append(name)
            if len(looks) <= 30:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(name, *args, **options)

    monkeypatch.setattr(os, "open", stale)
    with Lock(path).hold():
        assert len(looks) > 30
    looks.clear()
    with pytest.raises(StateUnavailable, match="cannot be opened"), Lock(path, deadline=0.01).hold():
        pass


def test_a_file_that_turns_out_to_be_stale_is_opened_anew(path, monkeypatch):
    """As above; here the mount still opens the file that was removed."""
    tries, real = [], fcntl.flock

    def stale(descriptor, operation):
        if operation & fcntl.LOCK_EX:
            tries.append(operation)
            if len(tries) <= 5:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", stale)
    with Lock(path).hold():
        assert len(tries) == 6
    tries.clear()
    with pytest.raises(StateUnavailable, match="cannot be locked"), Lock(path, deadline=0.0).hold():
        pass
