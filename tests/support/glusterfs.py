"""A real GlusterFS volume of one brick, with default options, mounted twice by FUSE as two hosts would.

All of it listens on an address of its own in 127.0.0.0/8, since bricks look for their glusterd on its one usual port.
glusterd and the brick it starts live in a pid namespace, so that both end with it, whatever becomes of the test.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from tests.support.components import lacking

DAEMON = """
volume management
    type mgmt/glusterd
    option working-directory {directory}/lib
    option run-directory {directory}/run
    option logging-directory {directory}/log
    option glusterd-sockfile {directory}/run/glusterd.socket
    option transport-type socket
    option transport.socket.bind-address {address}
    option transport.address-family inet
    option ping-timeout 0
end-volume
"""


def require_glusterfs():
    lacks = [f"{name} is not installed" for name in ("glusterd", "gluster", "glusterfs") if not shutil.which(name)]
    if os.geteuid():
        lacks.append("only root can mount")
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        lacks.append(f"/dev/fuse: {error.strerror}")
    if not lacks:
        return
    says = f"{'; '.join(lacks)} (apt-get install glusterfs-server glusterfs-client)"
    lacking(f"{says}: the lock file on GlusterFS is NOT tested")


class Mount:
    """One client of the volume: what one host sees of it."""

    def __init__(self, address, path, log):
        self.path = path
        path.mkdir()
        # TERM, should this process be killed: upon it the client unmounts.
        command = ["setpriv", "--pdeathsig", "TERM", "glusterfs", "--no-daemon", f"--volfile-server={address}"]
        self.process = subprocess.Popen([*command, "--volfile-id=/nas", f"--log-file={log}", str(path)])
        try:
            wait_for(path.is_mount, self.process, log)
        except BaseException:
            self.close()
            raise

    def pause(self):
        """Cut off: whatever a process of this host asks of the volume waits."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        self.go_on()
        # Lazily: a test that failed may have left a process with an open file there.
        subprocess.run(["umount", "--lazy", str(self.path)], stderr=subprocess.DEVNULL)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Volume:
    def __init__(self, directory):
        self.directory = directory
        self.address = ".".join(map(str, [127, *(random.randint(1, 254) for _ in range(3))]))
        for name in ("lib", "run", "log", "brick"):
            (directory / name).mkdir()
        self.mounts = []
        configuration = directory / "glusterd.vol"
        configuration.write_text(DAEMON.format(directory=directory, address=self.address))
        # Its own tmpfs there: the brick's socket has a fixed place, whatever the configuration says.
        os.makedirs("/run/gluster", exist_ok=True)
        start = "mount -t tmpfs tmpfs /run/gluster && exec glusterd --no-daemon"
        files = f"--volfile={configuration} --pid-file={directory}/run/glusterd.pid --log-file={directory}/log/glusterd"
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command += ["sh", "-c", f"{start} {files} --socket-file={directory}/run/other.socket"]
        with open(directory / "log" / "errors", "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(lambda: self.run("volume", "list").returncode == 0, self.process, directory / "log" / "glusterd")
            for command in (["create", "nas", f"{self.address}:{directory}/brick", "force"], ["start", "nas"]):
                done = self.run("volume", *command)
                assert done.returncode == 0, done.stdout + done.stderr
            for number in (1, 2):
                mount = Mount(self.address, directory / f"host{number}", directory / "log" / f"host{number}")
                self.mounts.append(mount)
        except BaseException:
            self.close()
            raise

    def run(self, *arguments):
        command = ["gluster", "--mode=script", f"--glusterd-sock={self.directory}/run/glusterd.socket"]
        command += [f"--log-file={self.directory}/log/cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def directories(self, name):
        """A new directory of the volume, as each of the two hosts names it."""
        found = [mount.path / name for mount in self.mounts]
        found[0].mkdir()
        return found

    def restart_brick(self, seconds):
        """Kill the server process under all clients, and start it again after so many seconds."""
        (daemon,) = children(self.process.pid)
        inside = ["nsenter", "--target", str(daemon), "--pid", "--mount"]
        (brick,) = (pid for pid in children(daemon) if b"--brick-name" in command_of(pid))
        command = command_of(brick).split(b"\0")[:-1]
        os.kill(brick, signal.SIGKILL)
        time.sleep(seconds)
        subprocess.run([*inside, *command], check=True, capture_output=True)

    def close(self):
        for mount in self.mounts:
            mount.close()
        # The namespace's first process: when it ends, all others in there have ended. Then ends unshare, which waits.
        for daemon in children(self.process.pid) or [self.process.pid]:
            os.kill(daemon, signal.SIGKILL)
        self.process.wait()


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def wait_for(check, process, log):
    until = time.monotonic() + 30
    while not check():
        assert process.poll() is None, Path(log).read_text()
        assert time.monotonic() < until, Path(log).read_text()
        time.sleep(0.02)


@contextmanager
def volume(directory):
    """A volume for as long as the block lasts; nothing of it stays."""
    require_glusterfs()
    made = Volume(directory)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)
