"""Do two hosts see one lock directory, and does a lock there hold between them?"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from airflow_provider_impala_lb.core.config.address import parse_address
from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS
from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.doctor.lock_directory import judge_turns
from airflow_provider_impala_lb.doctor.two_hosts_protocol import Task, TwoHostResult
from airflow_provider_impala_lb.errors import ConfigError

LISTEN_SECONDS = 60.0
CALL_SECONDS = 15.0
MEETING_LIMIT = 60.0
"""For all that comes after the two have met; it takes about 5 s."""


def parse_listen(text: str) -> tuple[str, int]:
    """``[ADDRESS:]PORT`` as (address, port); without an address only this host can come. :raises ConfigError: else."""
    return _host_port(f"127.0.0.1:{text}" if re.fullmatch(r"\d+", text) else text, f"--listen {text}: [ADDRESS:]PORT")


def parse_peer(text: str) -> str | tuple[str, int]:
    """A directory as it is (one that exists, or has a ``/``), ``HOST:PORT`` as a pair. :raises ConfigError: else."""
    if "/" in text or Path(text).is_dir():
        return text
    return _host_port(text, f"--peer {text}: a directory that is there, or HOST:PORT")


def _host_port(text: str, wrong: str) -> tuple[str, int]:
    try:
        host, port = parse_address(text, default_port=-1)
    except ValueError:
        port = -1
    if not 0 <= port < 65536:
        raise ConfigError(f"{wrong} is expected")
    return host, port


def check_peer(
    lock_file: str,
    cluster: str,
    address: tuple[str, int],
    *,
    listen: bool,
    wait: float | None = None,
    command: str = "impala-lb",
) -> Iterator[Finding]:
    """Meet the doctor of another host over TCP, and take turns with it; in another process, which may hang.

    :param address: where to listen, or where the other does.
    :param wait: seconds for the other to come, or to be there; default 60, or 15.
    :param command: how the command for the other host begins.
    """
    wait = wait if wait is not None else LISTEN_SECONDS if listen else CALL_SECONDS
    name = f".impala-lb-doctor.{secrets.token_hex(8)}" if listen else ""
    task = Task(
        lock_file=lock_file, cluster=cluster, host=address[0], port=address[1], wait=wait, name=name, command=command
    )
    alive = os.pipe()
    child = subprocess.Popen(  # noqa: S603  our own command
        [sys.executable, "-m", "airflow_provider_impala_lb.doctor.two_hosts", msgspec.json.encode(task).decode()],
        stdin=alive[0],
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(alive[0])
    try:
        output, _ = child.communicate(timeout=wait + MEETING_LIMIT)
    except subprocess.TimeoutExpired:
        yield Finding(
            "other host",
            "failed",
            f"no result within {wait + MEETING_LIMIT:g} s",
            "a call hangs in this host's mount: look at it, and at the file server's lock manager",
        )
        return
    finally:
        child.kill()  # not waited for: where locks hang, so does the end of who waits for one
        os.close(alive[1])
        if name:
            with suppress(OSError):
                os.unlink(Path(lock_file).parent / name)
    if child.returncode:
        yield Finding("other host", "failed", "the check ended early")
        return
    yield from _judge(msgspec.json.decode(output, type=TwoHostResult), listen)


def _judge(found: TwoHostResult, listen: bool) -> Iterator[Finding]:
    """The same words on both hosts, but for whose clock is ahead."""
    if found.listener is None or found.caller is None:
        yield Finding("other host", "failed", _plain(found.failed), _plain(found.do))
        return
    listener, caller = (_plain(f"{side.host}:{side.directory}") for side in (found.listener, found.caller))
    if found.same:
        yield Finding("lock directory, two hosts", "ok", f"{listener} and {caller} are one")
    elif not found.failed:
        yield Finding(
            "lock directory, two hosts",
            "failed",
            f"{listener} and {caller} are not the same directory: a file made in the first is not seen in the second",
            "mount the same share on both hosts, and name it by the same lock_file",
        )
        return
    if found.give:
        yield _judge_clocks(found, listen)
    if found.failed or found.turns is None:
        yield Finding("locking, two hosts", "failed", _plain(found.failed), _plain(found.do))
    else:
        yield judge_turns("locking, two hosts", msgspec.structs.asdict(found.turns))


def _judge_clocks(found: TwoHostResult, listen: bool) -> Finding:
    assert found.listener is not None and found.caller is not None
    ahead, other = (found.ahead, found.caller) if listen else (-found.ahead, found.listener)
    says = f"this host is {ahead:+.3f} s beside {_plain(other.host)}, give or take {max(found.give, 0.001):.3f} s"
    # On NFS picks go by the server's clock; elsewhere by the host's.
    if abs(ahead) - found.give > LEASE_SECONDS / 4:
        return Finding("clock, two hosts", "warning", says, "set the clocks by NTP")
    return Finding("clock, two hosts", "ok", says)


def _plain(text: str) -> str:
    """What another host sent, fit for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:1000]
