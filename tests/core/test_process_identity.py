"""Whether a process is known to be gone: a live one never is, whatever this process may see of it."""

import ctypes
import os
import resource
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from airflow_provider_impala_lb.core import process_identity
from airflow_provider_impala_lb.core.process_identity import is_dead, this_process

NOBODY = 65534
CLONE_NEWNS = 0x20000


@contextmanager
def other_process():
    """Its id and its identity, as it says itself."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, str(this_process().start).encode())
        signal.pause()
        os._exit(0)
    start = int(os.read(read, 20))
    os.close(read)
    os.close(write)
    try:
        yield pid, process_identity.ProcessIdentity(this_process().boot, this_process().namespace, pid, start)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def in_a_child(work):
    """What ``work`` returns there: a number up to 9."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(work())
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_live_one_is_not_and_a_killed_one_is():
    with other_process() as (pid, holder):
        assert not is_dead(holder)
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < end
        assert is_dead(holder)  # its corpse is still there
    assert is_dead(holder)


@pytest.mark.parametrize("hidepid", [1, 2])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount: hidden processes are NOT tested")
def test_another_users_process_that_is_hidden_is_not_taken_for_dead(hidepid):
    """``hidepid`` of /proc, ``ProtectProc`` of systemd."""

    def look():
        if ctypes.CDLL(None).unshare(CLONE_NEWNS) != 0:
            return 5
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "proc", "-o", f"hidepid={hidepid}", "proc", "/proc"], check=True)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        with pytest.raises(OSError):
            Path(f"/proc/{holder.pid}/stat").read_bytes()
        return int(is_dead(holder))

    with other_process() as (_, holder):
        found = in_a_child(look)
        if found == 5:
            pytest.skip("no mount namespace may be made here: hidden processes are NOT tested")
        assert found == 0
    assert in_a_child(look) == 1


def test_one_cannot_be_looked_at_without_a_file_descriptor(monkeypatch):
    def look():
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        return int(is_dead(holder))

    with other_process() as (_, holder):
        this_process()
        assert in_a_child(look) == 0
