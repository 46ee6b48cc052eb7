"""A FUSE file system that passes all on to a directory, but refuses neither to make an attribute that is there nor to
remove one that is not: as Linux's SMB client (fs/smb/client/xattr.c, cifs_xattr_set). A program: SOURCE POINT HEEDS."""

import errno
import os
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

from tests.support.components import lacking


def serve(source, point, heeds):
    import mfusepy

    class Careless(mfusepy.Operations):
        def _at(self, path):
            return source + path

        def getattr(self, path, fh=None):
            status = os.lstat(self._at(path))
            names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_atime", "st_mtime", "st_ctime", "st_ino")
            return {name: getattr(status, name) for name in names}

        def readdir(self, path, fh):
            return [".", "..", *os.listdir(self._at(path))]

        def chmod(self, path, mode):
            os.chmod(self._at(path), mode)

        def create(self, path, mode, fi=None):
            return os.open(self._at(path), os.O_RDWR | os.O_CREAT, mode)

        def open(self, path, flags):
            return os.open(self._at(path), os.O_RDWR)

        def read(self, path, size, offset, fh):
            return os.pread(fh, size, offset)

        def write(self, path, data, offset, fh):
            return os.pwrite(fh, data, offset)

        def truncate(self, path, length, fh=None):
            os.truncate(self._at(path), length)

        def release(self, path, fh):
            os.close(fh)

        def unlink(self, path):
            os.unlink(self._at(path))

        def link(self, target, source):
            os.link(self._at(source), self._at(target))

        def mkdir(self, path, mode):
            os.mkdir(self._at(path), mode)

        def rmdir(self, path):
            os.rmdir(self._at(path))

        def listxattr(self, path):
            return os.listxattr(self._at(path))

        def getxattr(self, path, name, position=0):
            try:
                return os.getxattr(self._at(path), name)
            except OSError as error:
                raise mfusepy.FuseOSError(error.errno) from error

        def setxattr(self, path, name, value, options, position=0):
            os.setxattr(self._at(path), name, value, options if heeds == "flags" else 0)

        def removexattr(self, path, name):
            try:
                os.removexattr(self._at(path), name)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise

    mfusepy.FUSE(Careless(), point, foreground=True, nothreads=True)


@contextmanager
def careless_mount(directory, heeds="nothing"):
    """Its path, for as long as the block lasts. One that heeds "flags" refuses to make what is there."""
    try:
        import mfusepy  # noqa: F401

        os.close(os.open("/dev/fuse", os.O_RDWR))
    except (ImportError, OSError) as error:
        lacking(f"{error}: a mount that ignores XATTR_CREATE is NOT tested")
    source, point = directory / "source", directory / "point"
    source.mkdir()
    point.mkdir()
    command = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "tests.support.careless_mount"]
    process = subprocess.Popen([*command, str(source), str(point), heeds], stderr=subprocess.PIPE, text=True)
    try:
        while not os.path.ismount(point):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        yield point
    finally:
        subprocess.run(["umount", "--lazy", str(point)], stderr=subprocess.DEVNULL)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)


if __name__ == "__main__":
    serve(*sys.argv[1:])
