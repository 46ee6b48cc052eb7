"""The state in one file that hosts share, on a local disk, NFS or GlusterFS.

The common case, a file system where a read under a lock sees what was written under it: store.py (lock, read, change,
write, unlock), lock.py, shared_file.py (by which clock, in which format), state_slots.py (how the state lies in the
file), slot.py. What can go wrong: bounded_calls.py (a mount that hangs), faults.py (what an error means),
filesystem.py (which file systems are such, and which are local), clock.py (the file server's time), new_file.py.

Elsewhere, as on GlusterFS by FUSE: xattr.py (compare and set where each read may be stale), then xattr_versions.py (the
state, or a journal, by that). store.py and shared_file.py import the latter only there.

Imports core (ports, state) and errors.
"""
