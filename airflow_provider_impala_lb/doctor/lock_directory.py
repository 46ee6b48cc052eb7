"""Is the lock file's directory fit for its task?"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS
from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError
from airflow_provider_impala_lb.stores.file import filesystem
from airflow_provider_impala_lb.stores.file import xattr_versions as cas
from airflow_provider_impala_lb.stores.file.clock import server_time
from airflow_provider_impala_lb.stores.file.faults import fault_of
from airflow_provider_impala_lb.stores.file.store import FileStore

TURNS_LIMIT = 20.0

# nfs(5): each of these takes the lock, or its meaning, away without an error
_BAD_OPTIONS = {
    "nolock": "locks exclude only processes of this host",
    "local_lock=flock": "locks exclude only processes of this host",
    "local_lock=all": "locks exclude only processes of this host",
    "nobrl": "locks are not sent to the server",
    "soft": "a write may be given up after a time-out, and nobody is told",
}


def check_lock_file(lock_file: str, peer: str | None = None) -> Iterator[Finding]:
    """What can be found about this lock file's directory.

    :param peer: the same directory by another mount of this host: caches of two mounts disagree where one's do not.
    """
    directory = Path(lock_file).parent
    try:
        magic = filesystem.kind_of(str(directory))
    except OSError as error:
        says = str(fault_of(lock_file, error, str(directory), "cannot be reached"))
        yield Finding("lock directory", "failed", says, "mount the share, or make the directory")
        return
    store = FileStore(lock_file)
    try:
        mode = store.mode
    except ImpalaLBError as error:
        mode = None
        yield Finding("lock file", "failed", str(error))
    how = {
        None: "",
        "slots": "; mode slots: one host sees what another wrote under the lock",
        "cas": "; mode cas: one host may not see at once what another wrote, so each write is a compare-and-set of the "
        "lock file's attributes; and each host goes by its own clock: run NTP",
    }
    yield Finding("file system", "ok", f"{directory} lies on {filesystem.name(magic)}{how[mode]}")
    yield from _check_mount(directory)
    yield from _check_modes(directory, Path(lock_file))
    if mode != "cas":  # there the stamps are this host's own
        yield _check_clock(directory)
    if mode:
        yield _check_turns(lock_file, peer, mode)


def _check_mount(directory: Path) -> Iterator[Finding]:
    options = mount_options(str(directory.resolve()))
    bad = {option: why for option, why in _BAD_OPTIONS.items() if option in options}
    if bad:
        says = "; ".join(f"{option}: {why}" for option, why in bad.items())
        yield Finding("mount options", "failed", says, "mount it without these")
    elif "ro" in options:
        yield Finding("mount options", "failed", "it is mounted read-only", "mount it read-write")
    else:
        yield Finding("mount options", "ok", ",".join(sorted(options)))


def mount_options(path: str, table: str = "/proc/self/mountinfo") -> set[str]:
    """The options of the mount that ``path`` lies on; of several on one point the last, which hides the others."""
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


def _check_clock(directory: Path) -> Finding:
    try:
        ahead = time.time() - server_time(str(directory))
    except OSError as error:
        return Finding("clock", "failed", f"no file can be made in {directory}: {error.strerror}", "see modes")
    if abs(ahead) > LEASE_SECONDS / 4:
        says = f"this host is {ahead:+.0f} s off the file server"
        return Finding("clock", "warning", says, "set the clocks by NTP; picks use the server's, logs do not")
    return Finding("clock", "ok", f"{ahead:+.2f} s beside the file server")


def _check_turns(lock_file: str, peer: str | None, mode: Literal["slots", "cas"]) -> Finding:
    """Take turns on a file of its own beside the lock file, in the same mode; in another process, which may hang."""
    name = f".impala-lb-doctor.{secrets.token_hex(8)}"
    directory = Path(lock_file).parent
    paths = [str(directory / name), str(Path(peer or directory) / name)]
    what = "locking, two mounts" if peer else "locking, two processes"
    if mode == "cas":  # the file says so, whatever a process thinks of its file system
        try:
            cas.make(paths[0])
        except OSError as error:
            return Finding(what, "failed", f"no lock file can be made in {directory}: {error.strerror}", "see modes")
        except ConfigError as error:
            return Finding(what, "failed", str(error))
    command = [sys.executable, "-m", "airflow_provider_impala_lb.doctor.lock_trial", *paths]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    try:
        output, errors = child.communicate(timeout=TURNS_LIMIT)
    except subprocess.TimeoutExpired:
        child.kill()  # not waited for: where locks hang, so does the end of who waits for one
        return Finding(what, "failed", f"no lock within {TURNS_LIMIT:g} s", "look at the file server's lock manager")
    finally:
        for path in paths:
            with suppress(OSError):
                os.unlink(path)
    if child.returncode:
        last = errors.strip().splitlines()[-1:] or ["it ended early"]
        return Finding(what, "failed", re.sub(r"\A[\w.]+(Error|Unavailable): ", "", last[0]))
    return judge_turns(what, json.loads(output))


def judge_turns(what: str, found: Mapping[str, float]) -> Finding:
    """:param found: as `turns.play` returns it."""
    if found["stale"] or found["lost"]:
        says = f"{found['stale']} of {found['turns']} turns did not see the other's write, {found['lost']} updates lost"
        return Finding(what, "failed", says, "this directory cannot hold the state: use another file system")
    return Finding(what, "ok", f"{found['turns']} turns in {found['seconds']:.1f} s, none stale, no update lost")
