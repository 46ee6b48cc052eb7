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
