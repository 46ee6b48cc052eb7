"""An exclusive lock on one small file that hosts share, without ever blocking in the kernel.

Rules and their sources:

* ``LOCK_NB`` and jittered sleeps, never a blocking flock: over NFSv4.0 the blocking form had a p99 of 7.3 s against
  1.0 s, and without a lock manager it cannot even be killed (zc.lockfile#26).
* flock, not lockf: POSIX locks go when ANY descriptor of the file in the process closes.
* The file is opened for each hold and never shared by threads; it is never unlinked or renamed, since waiters would
  then lock different inodes (filelock, docs/concepts.rst).
* One thread of a process at a time: with 100 that try in turn the one that has the lock waits for the interpreter
  longer than it works (the lock of 50 such processes was busy 100 % of the time with 218 of 5,000 served in minutes).
* flock belongs to the open file, which a fork shares: a child forked in the middle of a hold would keep the lock
  alive after its parent was killed. So the child closes its copies at once (`_forget_in_child`), and a hold is ended
  by ``LOCK_UN``, which works whoever else has a copy.
* No lock of the process is held while a file system is asked that may hang: there bounded_calls.py sees to the copies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Literal

from airflow_provider_impala_lb.core.forks import renew_in_children
from airflow_provider_impala_lb.core.timing import Backoff
from airflow_provider_impala_lb.errors import ConfigError, StateContended
from airflow_provider_impala_lb.stores.file.bounded_calls import Call, is_left_to_itself
from airflow_provider_impala_lb.stores.file.faults import fault_of
from airflow_provider_impala_lb.stores.file.new_file import make_empty

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW

_open_files: set[int] = set()
_opening = threading.Lock()  # held across a fork, so that no descriptor is open but not yet in the set


def _forget_in_child() -> None:
    global _opening
    for descriptor in _open_files:
        os.close(descriptor)
    _open_files.clear()
    _opening = threading.Lock()


os.register_at_fork(
    before=lambda: _opening.acquire(),
    after_in_parent=lambda: _opening.release(),
    after_in_child=_forget_in_child,
)


def require_regular(path: str, descriptor: int) -> None:
    """Check that an open file can hold the shared state.

    :param path: of the file, for the error.
    :param descriptor: of the open file.
    :raises ConfigError: it is a pipe, a device or a directory.
    """
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise _not_regular(path)


def _not_regular(path: str) -> ConfigError:
    return ConfigError(f"{path}: is not a regular file, so it cannot hold the shared state")


class Lock:
    """The lock on one file; the file is made if it is not there, its directory is not.

    :param path: of the file.
    :param deadline: seconds to wait for the lock, in all; default 5.
    :param make: makes the file, whole at once; raises FileExistsError if another process was faster; default an empty
        one of mode 0660.
    :param home: the lock file's directory, where ``path`` is not in it but below; default that of ``path``.
    :param shared: not against each other, only against who wants it alone; default False.
    :ivar path: of the file.
    :ivar deadline: seconds to wait for the lock, in all.
    """

    FIRST_PAUSE = 0.0005
    LONGEST_PAUSE = 0.02

    def __init__(
        self,
        path: str,
        deadline: float = 5.0,
        make: Callable[[str], None] = make_empty,
        *,
        home: str = "",
        shared: bool = False,
    ) -> None:
        self.path = path
        self._home = home or os.path.dirname(path)
        self.deadline = deadline
        self._make = make
        self._kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self.forget_parent()
        renew_in_children(self)

    def forget_parent(self) -> None:
        """This process is a child: the threads that waited or held were its parent's."""
        self._turn = threading.Lock()

    def acquire(self, call: Call | None = None) -> int:
        """Open the file and wait for the lock.

        :param call: as part of which; the deadline counts from its beginning. None (default): from now.
        :returns: the descriptor, for :meth:`release`.
        :raises StateContended: names the file, and how long it was waited for.
        :raises StateUnavailable: the file cannot be opened or locked.
        :raises ConfigError: the path is not a regular file, or not one that this process can ever use.
        """
        start, turn = call.begun if call else time.monotonic(), self._turn
        if is_left_to_itself():  # it has its turn from bounded_calls.py, and would keep this one
            return self._acquire(start)
        if not turn.acquire(timeout=max(0.0, start + self.deadline - time.monotonic())):
            raise self._not_free(start)
        try:
            return self._acquire(start)
        finally:
            turn.release()

    def _acquire(self, start: float) -> int:
        while True:
            descriptor = self._open(start)
            held = False
            try:
                held = self._wait(descriptor, start)
            finally:
                if not held:
                    with suppress(OSError):  # of a file that is stale; the descriptor is closed all the same
                        self._close(descriptor, unlock=False)
            if held:
                return descriptor

    def release(self, descriptor: int) -> None:
        """Free the lock and close the file.

        :param descriptor: as :meth:`acquire` returned it.
        :raises OSError: the mount was cut off.
        """
        self._close(descriptor, unlock=True)

    def release_quietly(self, descriptor: int) -> None:
        """As :meth:`release`, after an error that says more than what goes wrong here.

        :param descriptor: as :meth:`acquire` returned it.
        """
        with suppress(OSError):
            self._close(descriptor, unlock=True)

    @contextmanager
    def hold(self) -> Iterator[int]:
        """:meth:`acquire` and :meth:`release` as a block."""
        descriptor = self.acquire()
        try:
            yield descriptor
        except BaseException:
            self.release_quietly(descriptor)
            raise
        self.release(descriptor)

    def _wait(self, descriptor: int, start: float) -> bool:
        """Wait for the lock. False: the file was deleted meanwhile, and has to be opened anew."""
        backoff: Backoff | None = None  # as a rule nobody has it
        while True:
            try:
                fcntl.flock(descriptor, self._kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                remaining = start + self.deadline - time.monotonic()
                if remaining <= 0:
                    raise self._not_free(start) from None
                backoff = backoff or self._backoff()
                time.sleep(min(_jittered(backoff.next()), remaining))
            except OSError as error:
                return self._is_deleted(error, start)
        try:
            status = os.fstat(descriptor)
        except OSError as error:
            return self._is_deleted(error, start)
        if not stat.S_ISREG(status.st_mode):
            raise _not_regular(self.path)
        return status.st_nlink > 0

    def _not_free(self, start: float) -> StateContended:
        waited = time.monotonic() - start
        return StateContended(
            f"{self.path}: its lock was not free within {waited:.1f} s. A holder keeps it for about a millisecond: "
            "look for a stopped process or a lost host that holds it (a file server frees the locks of a lost host "
            "after its lease, often 90 s)"
        )

    def _is_deleted(self, error: OSError, start: float) -> Literal[False]:
        """A mount may open, by what it still knew, what another host has removed, and hear of that only now."""
        if error.errno != errno.ESTALE or time.monotonic() - start >= self.deadline:
            raise fault_of(self.path, error, self._home, "cannot be locked") from error
        time.sleep(self.FIRST_PAUSE)
        return False

    def _open(self, start: float) -> int:
        backoff: Backoff | None = None
        while True:
            alone = is_left_to_itself()
            with nullcontext() if alone else _opening:
                try:
                    descriptor = self._open_or_make()
                    if not alone:
                        _open_files.add(descriptor)
                    return descriptor
                except OSError as error:
                    # Another host has removed the file, and this mount still knew its name (seen on GlusterFS, and NFS
                    # says so, too); or it came and went between two calls. The next look goes to the server, but where
                    # files are made and removed all the time, that may be late again: as often as the deadline allows.
                    if error.errno != errno.ESTALE or time.monotonic() - start >= self.deadline:
                        raise fault_of(self.path, error, self._home, "cannot be opened") from error
            backoff = backoff or self._backoff()
            time.sleep(_jittered(backoff.next()))

    def _backoff(self) -> Backoff:
        return Backoff(self.FIRST_PAUSE, self.LONGEST_PAUSE, growth=1.5)

    def _open_or_make(self) -> int:
        # Not O_CREAT at once: in a sticky directory the kernel refuses it on another user's file (filelock#317).
        try:
            return os.open(self.path, _FLAGS)
        except FileNotFoundError:
            if not os.path.isdir(os.path.dirname(self.path) or "."):
                raise
        with suppress(FileExistsError):  # made by another process between the two calls
            self._make(self.path)
        try:
            return os.open(self.path, _FLAGS)
        except FileNotFoundError:
            raise OSError(errno.ESTALE, "keeps appearing and vanishing") from None

    @staticmethod
    def _close(descriptor: int, *, unlock: bool) -> None:
        alone = is_left_to_itself()
        with nullcontext() if alone else _opening:
            if descriptor not in _open_files and not alone:
                return  # this is a child forked in the middle of the hold: the descriptor was closed there
            _open_files.discard(descriptor)
            try:
                if unlock:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            finally:
                os.close(descriptor)


def _jittered(pause: float) -> float:
    return random.uniform(pause / 2, pause)
