"""Calls into a file system that may hang: each in a thread that can be left behind, so that its caller is not.

What waits in the kernel for a file server that is silent (hard NFS, a FUSE daemon that is stopped) returns by no signal
and no deadline. So on such a file system somebody else has to be the one who waits. A caller whose time is over leaves
the call behind and is told so, and which it is:

* nothing was noted: what is left behind has not begun to write, and will not when it comes back (`Call.commits`);
* outcome unknown: it was about to write.

Until it comes back nobody asks that file system again for this lock file: all calls fail at once, and none gets a
thread. When it does, all is as before. No lock is held meanwhile that another lock file, or a fork, needs.

An answer may also be lost for good while the file system works on (seen: a flock that GlusterFS 10.3 never answered).
So after a while a thread only opens the lock file, which asks the server; if that is answered, calls are made again.

A hand-over to a thread and back takes 0.04 ms. That is a third of a pick on a local disk, and little beside a file
server's answer; a local file system (`filesystem.is_local`) does not hang while its host works, and is called directly.

A mount that was replaced by a new one meanwhile is asked at once: what hangs on the old one may never come back.

What this cannot mend is the kernel's: a process whose call hangs with a file open there may not end, nor start another
program, before that is closed.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, Generic, TypeVar

from airflow_provider_impala_lb.core.forks import renew_in_children
from airflow_provider_impala_lb.core.timing import Backoff, Deadline
from airflow_provider_impala_lb.errors import StateContended, StateUnavailable
from airflow_provider_impala_lb.stores.file import filesystem
from airflow_provider_impala_lb.stores.file.clock import PROBE

Answer = TypeVar("Answer")

GRACE_SECONDS = 1.0
"""A call has so much longer than its deadline: one that waits for a lock all the time is to say so itself."""
_IDLE_SECONDS = 5.0
"""A thread without work ends after this time."""
LOOK_SECONDS, LONGEST_LOOK_SECONDS = 60.0, 600.0
"""Pauses between two looks whether a file system that left a call without an answer answers others: they double."""
_MOST_AT_WORK = 8
"""With so many threads left behind there are no more looks: where each call hangs, a look's answer means nothing."""


class Abandoned(OSError):
    """Nobody waits for this call any more, so it must not go on."""

    def __init__(self) -> None:
        super().__init__(errno.ETIMEDOUT, "nobody waits for it any more")


class Call(Deadline):
    """One call: until when it may wait for locks, and whether somebody still waits for it.

    :param seconds: from now.
    :ivar begun: when, by the monotonic clock.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.begun = time.monotonic()
        self._patience = seconds + GRACE_SECONDS
        self._mutex = threading.Lock()
        self._abandoned = self._commits = self._computing = False

    @property
    def since(self) -> float:
        """Seconds since it was begun."""
        return time.monotonic() - self.begun

    @property
    def patience(self) -> float:
        """Seconds until its caller goes, 0 or more."""
        return max(0.0, self._patience - self.since)

    def compute(self, change: Callable[..., Answer], *arguments: Any) -> Answer:
        """What ``change`` returns, which works on what is the caller's: not once he is gone, and he does not go before.

        :param change: only computes; what it reads goes by :meth:`read`.
        :param arguments: for it.
        :raises Abandoned: it was not called, or not to its end.
        """
        with self._mutex:
            self._check()
            self._computing = True
            try:
                return change(*arguments)
            finally:
                self._computing = False

    def read(self, read: Callable[..., Answer], *arguments: Any) -> Answer:
        """What ``read`` returns, which may hang; also from within :meth:`compute`.

        :param read: reads something.
        :param arguments: for it.
        :raises Abandoned: the caller went meanwhile.
        """
        if not self._computing:
            return read(*arguments)
        self._mutex.release()
        try:
            found = read(*arguments)
        finally:
            self._mutex.acquire()
        self._check()
        return found

    def commits(self) -> None:
        """Right before the write that counts: from now on a caller who goes does not know the outcome.

        :raises Abandoned: he has gone, and was told that nothing is noted: nothing may be.
        """
        with self._mutex:
            self._check()
            self._commits = True

    def abandon(self) -> bool:
        """The caller goes. Returns whether the outcome is unknown."""
        with self._mutex:
            self._abandoned = True
            return self._commits

    def _check(self) -> None:
        if self._abandoned:
            raise Abandoned


class BoundedCalls:
    """The calls of this process for one lock file and what lies beside it. Get it by `of`.

    :param path: of the lock file.
    :ivar changes: the turn of those who change the state: one thread of theirs is left behind at most,
        and one more after each look that was answered.
    :ivar looks: the turn of those who look at it.
    """

    _of: ClassVar[weakref.WeakValueDictionary[str, BoundedCalls]] = weakref.WeakValueDictionary()

    def __init__(self, path: str) -> None:
        self._path = path
        self._directory = os.path.dirname(os.path.abspath(path))
        self._is_local: bool | None = None
        self._real_path = ""
        self._at_work = 0
        self.forget_parent()
        renew_in_children(self)

    @classmethod
    def of(cls, path: str) -> BoundedCalls:
        """Those of a lock file: the same for all who use it at the same time.

        :param path: of the lock file.
        """
        found = cls._of.get(path)
        if found is None:
            found = cls._of[path] = cls(path)
        return found

    def forget_parent(self) -> None:
        """This process is a child: the threads, those left behind, too, are its parent's."""
        if self._at_work and self._real_path:
            _close_copies(self._real_path)
        self.changes, self.looks = threading.Lock(), threading.Lock()
        # Never held while a file system is asked. A signal's handler may interrupt its own thread in here.
        self._mutex = threading.RLock()
        self._idle: list[_Worker] = []
        self._left_behind: set[_Job[Any]] = set()
        self._at_work = 0
        self._looking: _Job[Any] | None = None
        self._looks = Backoff(LOOK_SECONDS, LONGEST_LOOK_SECONDS)

    def run(
        self, work: Callable[[Call], Answer], seconds: float, turn: threading.Lock | None = None, what: str = ""
    ) -> Answer:
        """What ``work`` returns or raises, within its time.

        :param work: asks the file system; the caller may have gone meanwhile, see `Call`.
        :param seconds: it may wait for locks so long; its caller waits `GRACE_SECONDS` longer.
        :param turn: only one at a time has it: `changes` or `looks`; None (default): others are no matter.
        :param what: the file, for errors; default the lock file.
        :raises StateContended: it was not its turn in that time.
        :raises StateUnavailable: the file system does not answer; nothing was noted, unless the message says *outcome
            unknown*.
        """
        if self._is_local is None:
            self._is_local = filesystem.is_local(self._directory)
        if self._is_local is None:
            self._is_local = self._run_bounded(self._is_really_local, Call(seconds), self.looks, self._path)
        call = Call(seconds)
        return work(call) if self._is_local else self._run_bounded(work, call, turn, what or self._path)

    def _is_really_local(self, call: Call) -> bool:
        return bool(filesystem.is_local(os.path.realpath(self._directory)))

    def _run_bounded(
        self, work: Callable[[Call], Answer], call: Call, turn: threading.Lock | None, what: str
    ) -> Answer:
        if turn is None:
            return self._hand_over(work, call, what)
        if not turn.acquire(timeout=call.patience):
            raise StateContended(f"{what}: other threads of this process were at work on it for {call.since:.1f} s")
        try:
            return self._hand_over(work, call, what)
        finally:
            turn.release()

    def _hand_over(self, work: Callable[[Call], Answer], call: Call, what: str) -> Answer:
        """:raises StateUnavailable: see `run`."""
        job = _Job(work if self._real_path else self._where_it_is_first(work), call)
        with self._mutex:
            if self._left_behind:  # on a mount that is there no more, none of them says anything of the one that is
                device = filesystem.device_of(self._real_path or self._path)
                self._left_behind = {left for left in self._left_behind if left.device == device}
            if self._left_behind:
                silent = max(left.call.since for left in self._left_behind)
                self._look_again(min(left.call.since for left in self._left_behind))
                raise StateUnavailable(
                    f"{what}: its file system has not answered for {silent:.0f} s, and is not asked again until it "
                    "does; nothing was noted"
                )
            try:
                self._begin(job)
            except RuntimeError as error:  # no more threads, or the interpreter ends
                raise StateUnavailable(f"{what}: it cannot be worked on: {error}; nothing was noted") from error
        try:
            answered = job.done.acquire(timeout=call.patience)
        except BaseException:  # of a signal's handler; the call ends by itself
            call.abandon()
            raise
        if not answered and self._leave_behind(job):
            unknown = call.abandon()
            raise StateUnavailable(
                f"{what}: its file system did not answer within {call.since:.1f} s"
                + (": outcome unknown: it may have been noted all the same" if unknown else "; nothing was noted")
            )
        self._looks = Backoff(LOOK_SECONDS, LONGEST_LOOK_SECONDS)
        return job.answer()

    def _begin(self, job: _Job[Any]) -> None:
        """:raises RuntimeError: no thread could be started."""
        worker = self._idle.pop() if self._idle else _Worker(self)
        worker.give(job)
        self._at_work += 1

    def _look_again(self, silent: float) -> None:
        """Begin to look whether the file system answers, if that is due.

        :param silent: seconds since the last call that has no answer, or the last look.
        """
        if self._looking is not None:
            silent = min(silent, self._looking.call.since)
            if not self._looking.ended:
                return
        if silent >= self._looks.pause and self._at_work < _MOST_AT_WORK:
            self._looks.next()
            look = _Job(self._look, Call(0))
            with suppress(RuntimeError):  # no more threads for this process
                self._begin(look)
                self._looking = look

    def _look(self, call: Call) -> None:
        with suppress(OSError):  # an answer, too
            os.close(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
        with self._mutex:
            self._left_behind = {left for left in self._left_behind if left.call.begun > call.begun}

    def _where_it_is_first(self, work: Callable[[Call], Answer]) -> Callable[[Call], Answer]:
        def found(call: Call) -> Answer:
            self._real_path = os.path.realpath(self._path)
            return work(call)

        return found

    def _leave_behind(self, job: _Job[Any]) -> bool:
        """Whether a call has still not ended."""
        with self._mutex:
            if not job.ended:
                job.device = filesystem.device_of(self._real_path or self._path)
                self._left_behind.add(job)
            return not job.ended

    def end(self, job: _Job[Any], worker: _Worker) -> None:
        """A job has ended, and its thread is free.

        :param job: it.
        :param worker: who did it.
        """
        with self._mutex:
            job.ended = True
            self._at_work -= 1
            self._left_behind.discard(job)
            self._idle.append(worker)

    def retire(self, worker: _Worker) -> bool:
        """A thread has had no work for a while. Whether it may end: none was given to it just now.

        :param worker: it.
        """
        with self._mutex:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            return True


class _Job(Generic[Answer]):
    """A call, and what came of it."""

    def __init__(self, work: Callable[[Call], Answer], call: Call) -> None:
        self._work, self.call = work, call
        self.done = threading.Lock()
        self.done.acquire()
        self.ended = False
        self.device = b""
        self._answer: Answer
        self._error: BaseException | None = None

    def do(self) -> None:
        """Call it. Never raises."""
        try:
            self._answer = self._work(self.call)
        except BaseException as error:
            self._error = error

    def answer(self) -> Answer:
        """What it returned, or raised."""
        error, self._error = self._error, None
        if error is None:
            return self._answer
        try:
            raise error
        finally:
            del error  # it holds this frame


class _Worker(threading.Thread):
    """Works for one who waits, again and again; ends when nobody has come for a while."""

    def __init__(self, calls: BoundedCalls) -> None:
        super().__init__(name="impala-lb-file", daemon=True)  # the interpreter's end does not wait for it
        self._calls = calls
        self._given = threading.Lock()
        self._given.acquire()
        self._job: _Job[Any] | None = None

    def give(self, job: _Job[Any]) -> None:
        """Work for it now.

        :param job: the work.
        :raises RuntimeError: no thread could be started.
        """
        self._job = job
        if self.ident is None:
            self.start()
        self._given.release()

    def run(self) -> None:
        """See `threading.Thread.run`."""
        while self._given.acquire(timeout=_IDLE_SECONDS) or not self._calls.retire(self):
            job, self._job = self._job, None
            if job is None:
                continue
            job.do()
            self._calls.end(job, self)
            job.done.release()


def is_left_to_itself() -> bool:
    """Whether this thread is one that its caller may leave behind: it must hold no lock that others need."""
    return isinstance(threading.current_thread(), _Worker)


def _close_copies(path: str) -> None:
    """In a child: close its copies of what its parent's threads had open for a lock file, since flock belongs to all
    copies. Each in a thread of its own, as a close may hang. By name, as the kernel has it: of a file that was about to
    be opened nobody had noted the descriptor yet."""
    directory, name = os.path.split(path)
    beside = (f"{path}.journal/", os.path.join(directory, f".{name}."), os.path.join(directory, PROBE))
    with suppress(OSError):  # there is no /proc
        for entry in os.listdir("/proc/self/fd"):
            with suppress(OSError, RuntimeError):
                target = os.readlink(f"/proc/self/fd/{entry}")
                if target == path or target.startswith(beside):
                    threading.Thread(target=_close, args=(int(entry),), daemon=True).start()


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)
