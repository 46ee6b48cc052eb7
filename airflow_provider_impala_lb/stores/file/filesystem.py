"""On which file systems is read-after-lock known to be true?

Under flock the local ones and NFS are coherent: the kernel's NFS client drops its caches when it takes a lock and
flushes before it frees one (linux fs/nfs/file.c, do_setlk and do_unlk; 3,080 updates from two clients, none lost).
GlusterFS over FUSE is not: with default options the same protocol loses half of the updates.

Asked of the kernel for an open descriptor, by ``fstatfs``, which Python has no call for: ``os.statvfs`` leaves the type
out, and the table of mounts (psutil.disk_partitions) knows paths, not the file that was opened.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

NFS = 0x6969
COHERENT = {  # linux/magic.h, and the file systems' own headers
    0xEF53: "ext",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0xCA451A4E: "bcachefs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x794C7630: "overlay",
    NFS: "nfs",
}
_LOCAL_TYPES = {
    *(b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"zfs", b"f2fs", b"bcachefs"),
    *(b"tmpfs", b"devtmpfs", b"ramfs", b"overlay"),
}
"""What the table of mounts calls those that lie on this host."""
_NAMES = {
    0x65735546: "FUSE (GlusterFS, sshfs, ...)",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB",
    0x00C36400: "Ceph",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x01021997: "9p",
}


def kind(descriptor: int) -> int:
    """The file system's magic number, ``statfs(2).f_type``; 0 where it cannot be asked (not Linux).

    :param descriptor: of an open file or directory there.
    """
    if sys.platform != "linux":
        return 0
    buffer = (ctypes.c_long * 32)()  # struct statfs begins with f_type, a long, on all 64-bit Linux
    if _libc().fstatfs(ctypes.c_int(descriptor), ctypes.byref(buffer)) != 0:
        return 0
    return buffer[0] & 0xFFFFFFFF


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def kind_of(directory: str) -> int:
    """As `kind`, for a directory.

    :param directory: its path.
    :raises OSError: it cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return kind(descriptor)
    finally:
        os.close(descriptor)


def name(magic: int) -> str:
    """What to call a file system in a message.

    :param magic: as `kind` gives it.
    """
    return COHERENT.get(magic) or _NAMES.get(magic) or f"unknown (f_type 0x{magic:x})"


def is_coherent(magic: int) -> bool:
    """Whether a read after taking the lock is sure to see what was written before it was freed.

    :param magic: as `kind` gives it.
    """
    return magic in COHERENT or (magic == 0 and sys.platform != "linux")


def is_local_type(magic: int) -> bool:
    """Whether no other host can see what lies there.

    :param magic: as `kind` gives it.
    """
    return magic in COHERENT and magic != NFS


def is_local(directory: str, table: str = "/proc/self/mountinfo") -> bool | None:
    """Whether a directory needs nobody but this host: then it does not hang while the host works. Found out without
    asking any file system that may hang: by the kernel's table of mounts (proc(5)), component by component, since a
    mount below one that hangs is out of reach, too.

    :param directory: its absolute path.
    :param table: the table; default this process's.
    :returns: None: there is a link on the way, so the path does not say where it leads; ask with the real one.
    """
    local = {point: kind in _LOCAL_TYPES for point, _, kind in _mounts(table)}
    if not local:
        return False  # not Linux
    path, names = b"", os.fsencode(directory).split(b"/")
    for name in [b"", *(name for name in names if name and name != b".")]:
        path = b"/".join((path.rstrip(b"/"), name))
        if not local.get(path, True):
            return False
        if name == b".." or os.path.islink(path):
            return None
    return True


def device_of(path: str, table: str = "/proc/self/mountinfo") -> bytes:
    """The device number of the mount that a path lies on, b"" if unknown. As long as a call hangs on one, no mount that
    comes in its place has its number. Asks no file system, as `is_local`.

    :param path: absolute, without links.
    :param table: as there.
    """
    wanted, best, found = os.fsencode(path), b"", b""
    for point, device, _ in _mounts(table):
        if len(point) >= len(best) and (wanted == point or wanted.startswith(point.rstrip(b"/") + b"/")):
            best, found = point, device
    return found


def _mounts(table: str) -> list[tuple[bytes, bytes, bytes]]:
    """Point, device number and type of each mount; of several on one point the last hides the others."""
    try:
        with open(table, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ", 5)
        point = fields[4].replace(rb"\040", b" ").replace(rb"\134", b"\\")
        found.append((point, fields[2], after.partition(b" ")[0]))
    return found
