"""A FUSE mount whose daemon a test stops, and programs that work on a mount that hangs: each a process of its own,
which ends with its test whatever becomes of it."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

from tests.support.components import lacking
from tests.support.glusterfs import Mount, wait_for

SECONDS = 30
"""A program that has not ended after this time hangs."""

HEAD = """
import contextlib, os, signal, sys, threading, time
from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.cluster import lease_keeper
from airflow_provider_impala_lb.errors import *
from airflow_provider_impala_lb.stores.file.store import FileStore
from airflow_provider_impala_lb.stores.journals.file import FileJournals
from tests.support.store_changes import bump, count
try:
    from airflow_provider_impala_lb.stores.file import bounded_calls
except ImportError:  # on main
    class bounded_calls: pass
path, daemon, other = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def hurry(*stores):
    # They wait a moment only. Before, on a busy machine, an answer may take its time.
    for store in stores:
        store._lock.deadline = 0.2
    bounded_calls.GRACE_SECONDS = 0.2

def hang(*stores):
    hurry(*stores)
    os.kill(daemon, signal.SIGSTOP)
    while " T " not in open(f"/proc/{daemon}/stat").read():
        time.sleep(0.001)

def go_on(*stores):
    for store in stores:
        store._lock.deadline = 5.0
    bounded_calls.GRACE_SECONDS = 1.0
    os.kill(daemon, signal.SIGCONT)

def error_of(call, *arguments, **keys):
    try:
        return f"no error: {call(*arguments, **keys)}"
    except StateUnavailable as error:
        return str(error)

def threads():
    return sum(thread.name == "impala-lb-file" for thread in threading.enumerate())

def until(check):
    while not check():
        time.sleep(0.01)

def once_back(call, *arguments):
    while True:
        with contextlib.suppress(StateUnavailable):
            return call(*arguments)
        time.sleep(0.01)

def balancer_of(path, **keys):
    return Balancer.from_config({"nodes": ["a", "b"], "lock_file": path, **keys})
"""
"""``path`` on the mount, the ``daemon`` behind it, and ``other``, a lock file on a local disk."""


def run(mount, directory, other, program):
    """What a program prints. Fails if it does, or if it hangs; then the mount goes on first, since what waits for it
    cannot be killed."""
    command = [sys.executable, "-c", HEAD + program, str(directory / "node_in_use.tmp"), str(mount.process.pid), other]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the children it has forked
        mount.go_on()
        raise AssertionError(f"it hangs; until then: {process.communicate(timeout=SECONDS)}") from None
    finally:
        mount.go_on()
    assert process.returncode == 0, err
    return out.splitlines()


class FuseMount(Mount):
    """A directory as it is seen through a FUSE daemon."""

    def __init__(self, below, path):
        self.path = path
        path.mkdir()
        command = ["setpriv", "--pdeathsig", "TERM", "bindfs", "-f", str(below), str(path)]
        with open(f"{path}.log", "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(path.is_mount, self.process, f"{path}.log")
        except BaseException:
            self.close()
            raise


@contextmanager
def fuse_mount(directory):
    """A mount for as long as the block lasts; nothing of it stays."""
    if os.geteuid() or not shutil.which("bindfs") or not os.path.exists("/dev/fuse"):
        lacking("root, /dev/fuse and bindfs (apt-get install bindfs) are needed: a mount that hangs is NOT tested")
    (directory / "below").mkdir()
    mount = FuseMount(directory / "below", directory / "mount")
    try:
        yield mount
    finally:
        mount.close()
