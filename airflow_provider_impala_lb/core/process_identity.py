"""Who holds a lease, and is that process still alive? Read from /proc, outside any transaction."""

from __future__ import annotations

import os
from functools import cache

from airflow_provider_impala_lb.core.state.model import ProcessIdentity


@cache
def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot; 0 if there is none, or only its corpse; None: unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None if _may_live(pid) else 0
    except OSError:  # another user's (hidepid=1), or this process has no file descriptor left
        return None
    # The name, in parentheses, may hold blanks and parentheses itself: the fields are counted from the last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _may_live(pid: int) -> bool:
    """Of a process that is not in /proc: others' are hidden there with hidepid=2, or systemd's ProtectProc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def this_process() -> ProcessIdentity | None:
    """The calling process, or None where there is no /proc: then a lease ends by its expiry alone."""
    return _process(os.getpid())


@cache
def _process(pid: int) -> ProcessIdentity | None:
    boot, start = _boot(), _start(pid)
    return ProcessIdentity(boot=boot, namespace=_namespace(), pid=pid, start=start) if boot and start else None


def is_dead(holder: ProcessIdentity | None) -> bool:
    """Whether a process is known to be gone: it ran on this host, in this pid namespace, and runs no more.

    :param holder: the process; None: nobody knows which.
    """
    if holder is None or holder.boot != _boot() or holder.namespace != _namespace():
        return False
    start = _start(holder.pid)
    return start is not None and start != holder.start
