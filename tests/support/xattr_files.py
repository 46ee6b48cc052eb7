"""What the tests of the mode cas do to a state, and see of its files."""

import os
import secrets

UNKNOWN = "outcome unknown"


def versions(path):
    return sorted(int(name.removeprefix("user.lb.")) for name in os.listxattr(path))


def data_files(path):
    return sorted(name for name in os.listdir(os.path.dirname(path)) if name != os.path.basename(path))


def grow(state, now):
    """3 KB that do not compress."""
    for _ in range(100):
        state.node(secrets.token_hex(16)).picks = 1


def shrink(state, now):
    state.head.nodes = {"a": state.node("a")}
