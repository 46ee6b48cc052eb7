"""Is the lock file's directory fit for its task: its file system, its mount, its modes, its clock, and its locks?"""

from __future__ import annotations

import os
import re
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS
from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.doctor.lock_trial import TrialResult
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError, StateUnavailable
from airflow_provider_impala_lb.stores.file import filesystem
from airflow_provider_impala_lb.stores.file.bounded_calls import BoundedCalls
from airflow_provider_impala_lb.stores.file.clock import server_time
from airflow_provider_impala_lb.stores.file.faults import fault_of
from airflow_provider_impala_lb.stores.file.store import FileStore, Mode
from airflow_provider_impala_lb.stores.journals.directory import JournalDirectory

HANG_LIMIT = 5.0
"""Seconds for the directory to answer."""
TRIAL_LIMIT = 20.0
"""Seconds for the trial of the lock, which takes about 5."""

_LOCAL_LOCKS = "locks exclude only processes of this host"
# Each of these takes the lock, or its meaning, away without an error. nfs(5); mount.lustre(8); localflocks of GFS2
# (gfs2(5)) and OCFS2; flock=local of AFS (Linux fs/afs)
_BAD_OPTIONS = {
    "nolock": _LOCAL_LOCKS,
    "local_lock=flock": _LOCAL_LOCKS,
    "local_lock=all": _LOCAL_LOCKS,
    "localflock": _LOCAL_LOCKS,
    "localflocks": _LOCAL_LOCKS,
    "flock=local": _LOCAL_LOCKS,
    "nobrl": "locks are not sent to the server",
    "soft": "a write may be given up after a time-out, and nobody is told",
}


def check_lock_file(lock_file: str, peer: str | None = None) -> Iterator[Finding]:
    """What can be found about a lock file's directory.

    :param lock_file: path of the lock file, which need not be there.
    :param peer: the same directory by another mount of this host: caches of two mounts disagree where one's do not;
        None: two processes use one mount.
    """
    directory = Path(lock_file).parent
    try:
        magic = BoundedCalls.of(lock_file).run(lambda call: filesystem.kind_of(str(directory)), HANG_LIMIT)
    except StateUnavailable as error:
        yield Finding("lock directory", "failed", str(error), "look at its file server, or its mount's daemon")
        return
    except OSError as error:
        message = str(fault_of(lock_file, error, str(directory), "cannot be reached"))
        yield Finding("lock directory", "failed", message, "mount the share, or make the directory")
        return
    store = FileStore(lock_file)
    try:
        mode = store.mode
    except ImpalaLBError as error:
        mode = None
        yield Finding("lock file", "failed", str(error))
    explained = {
        None: "",
        "slots": "; mode slots: one host sees what another wrote under the lock",
        "cas": "; mode cas: one host may not see at once what another wrote, so each write is a compare-and-set of the "
        "lock file's attributes; and each host goes by its own clock: run NTP",
    }
    lies = f"{directory} lies on {filesystem.name(magic)}{explained[mode]}"
    if filesystem.is_local_type(magic):
        unseen = (
            "Other hosts, and containers without this directory, do not see it: each has limits and leases of its own"
        )
        remedy = "nothing, if all that use the cluster run here; else a directory on NFS or GlusterFS, or a Redis"
        yield Finding("file system", "warning", f"{lies}. {unseen}", remedy)
    else:
        yield Finding("file system", "ok", lies)
    yield from _check_mount(directory)
    yield from _check_modes(directory, Path(lock_file))
    yield from _check_journals(lock_file)
    if mode != "cas":  # there the stamps are this host's own
        yield _check_clock(directory, magic)
    if mode:
        yield _check_locking(lock_file, peer, mode)


def _check_mount(directory: Path) -> Iterator[Finding]:
    options = mount_options(str(directory.resolve()))
    bad = [f"{option}: {hazard}" for option, hazard in _BAD_OPTIONS.items() if option in options]
    if bad:
        yield Finding("mount options", "failed", "; ".join(bad), "mount it without these")
    elif "ro" in options:
        yield Finding("mount options", "failed", "it is mounted read-only", "mount it read-write")
    else:
        yield Finding("mount options", "ok", ",".join(sorted(options)))


def mount_options(path: str, table: str = "/proc/self/mountinfo") -> set[str]:
    """The options of the mount that a path lies on; of several on one point the last, which hides the others.

    :param path: absolute, without links.
    :param table: the kernel's table of mounts, proc(5); default this process's. Read here, since psutil, which reads
        one too, is no dependency of this package, and finds no path's mount either.
    """
    best, options = "", set[str]()
    for line in Path(table).read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(), after.split()
        point = fields[4].encode().decode("unicode_escape")  # a blank stands there as \040
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, options = point, set(fields[5].split(",")) | set(tail[2].split(",") if len(tail) > 2 else ())
    return options


def _check_modes(directory: Path, lock_file: Path) -> Iterator[Finding]:
    mode = directory.stat().st_mode
    if mode & stat.S_IWOTH:
        yield Finding(
            "modes",
            "warning",
            f"anybody may write in {directory} ({stat.filemode(mode)})",
            "give it to a group of the workers' users: chmod 2770",
        )
    elif lock_file.exists() and stat.S_IMODE(lock_file.stat().st_mode) & 0o007:
        yield Finding("modes", "warning", f"others may open {lock_file}", f"chmod 660 {lock_file}")
    elif not os.access(directory, os.W_OK):
        yield Finding("modes", "failed", f"this user may not write in {directory}", "add the user to its group")
    else:
        yield Finding("modes", "ok", stat.filemode(mode))


def _check_journals(lock_file: str) -> Iterator[Finding]:
    journals = JournalDirectory(f"{lock_file}.journal")
    try:
        if remedy := journals.why_one_users():
            message = f"{journals.path} is one user's, but a group shares its directory"
            yield Finding("journals", "warning", message, remedy)
    except ImpalaLBError as error:
        yield Finding("journals", "failed", str(error))


def _check_clock(directory: Path, magic: int) -> Finding:
    try:
        ahead = time.time() - server_time(str(directory))
    except OSError as error:
        return Finding("clock", "failed", f"no file can be made in {directory}: {error.strerror}", "see modes")
    if filesystem.is_local_type(magic):
        return Finding("clock", "ok", "this host's own")
    if abs(ahead) > LEASE_SECONDS / 4:
        message = f"this host is {ahead:+.0f} s off the file server"
        return Finding("clock", "warning", message, "set the clocks by NTP; picks use the server's, logs do not")
    return Finding("clock", "ok", f"{ahead:+.2f} s beside the file server")


def _check_locking(lock_file: str, peer: str | None, mode: Mode) -> Finding:
    """Try the lock on a file of its own beside the lock file, in the same mode; in another process, which may hang."""
    name = f".impala-lb-doctor.{secrets.token_hex(8)}"
    directory = Path(lock_file).parent
    paths = [str(directory / name), str(Path(peer or directory) / name)]
    what = "locking, two mounts" if peer else "locking, two processes"
    try:
        make_in_mode(paths[0], mode)
    except OSError as error:
        return Finding(what, "failed", f"no lock file can be made in {directory}: {error.strerror}", "see modes")
    except ConfigError as error:
        return Finding(what, "failed", str(error).replace(paths[0], lock_file))
    command = [sys.executable, "-m", "airflow_provider_impala_lb.doctor.lock_trial", *paths]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    try:
        output, errors = child.communicate(timeout=TRIAL_LIMIT)
    except subprocess.TimeoutExpired:
        child.kill()  # not waited for: where locks hang, so does the end of who waits for one
        return Finding(what, "failed", f"no lock within {TRIAL_LIMIT:g} s", "look at the file server's lock manager")
    finally:
        for path in paths:
            with suppress(OSError):
                os.unlink(path)
    if child.returncode:
        last = errors.strip().splitlines()[-1:] or ["it ended early"]
        return Finding(what, "failed", re.sub(r"\A[\w.]+(Error|Unavailable): ", "", last[0]))
    return judge_trial(what, msgspec.json.decode(output, type=TrialResult))


def make_in_mode(path: str, mode: Mode) -> None:
    """Let a new file be tried in the lock file's mode: the file says so, whatever a process thinks of its file system.

    :param path: of the new file. In the mode ``slots`` who tries first makes it.
    :param mode: the lock file's.
    :raises OSError: it cannot be made.
    :raises ConfigError: the mode cannot be had here.
    """
    if mode == "cas":
        from airflow_provider_impala_lb.stores.file import xattr_versions

        xattr_versions.make(path)


def judge_trial(what: str, result: TrialResult) -> Finding:
    """What the result of a trial means.

    :param what: was tried: the finding's name.
    :param result: of the trial.
    """
    if result.stale or result.lost:
        message = f"{result.stale} of {result.turns} turns did not see the other's write, {result.lost} updates lost"
        return Finding(what, "failed", message, "this directory cannot hold the state: use another file system")
    return Finding(what, "ok", f"{result.turns} turns in {result.seconds:.1f} s, none stale, no update lost")
