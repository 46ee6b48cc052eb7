"""The nodes that one piece of work was refused by, and what the others are told of it.

A node that is down is left out by all workers at once. Where a node and this client do not agree, on a login, a
certificate or a protocol, only a second node shows whose fault it was: if that one takes the work, the first one is
noted as failing; if it refuses for the same reason, nothing is noted: the configuration of this host is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.core.config.model import Config
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused

_KEYS = {
    "login": "session.auth_mechanism, session.use_ssl, the user or the password",
    "certificate": "session.ca_cert, or the names of the nodes",
}


class Refusals:
    """What this work was told so far. Not for several threads.

    :param config: whose nodes they are.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._unclear: dict[str, tuple[Pick | None, NodeRefused]] = {}
        self._at_fault: set[str] = set()

    def add(self, pick: Pick, error: NodeRefused, ask: Callable[[str], object] | None = None) -> None:
        """A node has refused.

        :param pick: of the node.
        :param error: what it said.
        :param ask: opens a session on a node and closes it, for who goes on with this node alone: only another one can
            tell whose fault it is; default None: no other one is asked.
        :raises ConfigError: a second node refuses the login, or shows a certificate that is not accepted, or there is
            only one node.
        """
        if error.fault == "node" or pick.node in self._at_fault:
            pick.refused(error.cause, str(error))
        elif error.fault == "client":
            pick.not_tried()
        else:
            self._unclear[pick.node] = (pick, error)
            self._check(error)
            if ask is not None and error.fault in _KEYS:
                self._ask(ask, error)

    def accepted(self, node: str) -> None:
        """A session has opened on this node: those that disagreed with this client were wrong themselves.

        :param node: ``host:port``.
        """
        self._unclear.pop(node, None)
        self._at_fault.update(self._unclear)
        for pick, error in self._unclear.values():
            if pick is not None:
                pick.refused(error.cause, f"{node} took what it refused: {error}")
        self._unclear.clear()

    def _check(self, error: NodeRefused) -> None:
        same = {node: other for node, (_, other) in self._unclear.items() if other.fault == error.fault}
        if error.fault in _KEYS and (len(same) > 1 or len(self._config.nodes) == 1):
            reasons = "; ".join(f"{node}: {other}" for node, other in same.items())
            raise ConfigError(f"{reasons}. To correct in the configuration of this host: {_KEYS[error.fault]}")

    def _ask(self, ask: Callable[[str], object], first: NodeRefused) -> None:
        for node in self._config.addresses:
            if node not in self._unclear:
                try:
                    ask(node)
                except NodeRefused as error:
                    if error.fault == first.fault:
                        self._unclear[node] = (None, error)
                        self._check(error)
                    continue
                self.accepted(node)
                return
