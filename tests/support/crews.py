"""Real processes that work on one store at the same time, and may be killed."""

import mmap
import os
import signal
import traceback


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
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.pids.discard(pid)

    def join(self):
        for pid in list(self.pids):
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            self.pids.discard(pid)
