"""A process that has loaded all that a coordinator needs, and forks a coordinator for each request:
``python -m airflow_provider_impala_lb.sandbox.node_template PARENT``.

An interpreter of its own for each would take three times the processor, most of it to import DuckDB and sqlglot. A
request is one message on the socket that is its standard input: the JSON of a
:class:`airflow_provider_impala_lb.sandbox.common.node_settings.NodeSettings`, with three descriptors, the coordinator's
standard input, output and error. The answer is its process id, with a pidfd.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from airflow_provider_impala_lb.sandbox import node_main
from airflow_provider_impala_lb.sandbox.common.node_settings import NodeSettings

LONGEST_REQUEST = 100_000
"""Bytes of a request: a message that a socket of its kind takes at once."""


def main(arguments: Sequence[str]) -> None:
    """Serve until the parent ends, or closes its end of the socket.

    :param arguments: one: the parent's process id.
    """
    node_main.die_with(int(arguments[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole foreground group; the parent decides
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel keeps none of those that end
    os.chdir("/")  # keeps no directory busy
    channel = socket.socket(fileno=os.dup(0))
    gc.collect()
    gc.freeze()  # else the first collection in each child would copy what is shared
    me = os.getpid()
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, LONGEST_REQUEST, 3)
        if not request:
            return
        pid = os.fork()
        if pid == 0:
            channel.close()
            _run(replace(NodeSettings.of_json(request.decode()), parent=me), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended by now
            channel.send(b"0")
            continue
        socket.send_fds(channel, [str(pid).encode()], [pidfd])
        os.close(pidfd)


def _run(settings: NodeSettings, descriptors: Sequence[int]) -> NoReturn:
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for standard, descriptor in enumerate(descriptors):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        node_main.main(settings)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
