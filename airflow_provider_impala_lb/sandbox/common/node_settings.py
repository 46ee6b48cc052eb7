"""What a coordinator's process is started with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from airflow_provider_impala_lb.sandbox.common.versions import HEAD


@dataclass(frozen=True)
class NodeSettings:
    """One coordinator's settings. Paths are absolute; logins are in files.

    :ivar name: such as ``node1``; its files are named after it.
    :ivar directory: the cluster's.
    :ivar flags: Impala's flags, see :class:`airflow_provider_impala_lb.sandbox.common.flags.Flags`.
    :ivar allow: directories beside the cluster's whose files SQL may touch.
    :ivar users: JSON file, login -> password; None: NOSASL.
    :ivar web: JSON file of a :class:`airflow_provider_impala_lb.sandbox.common.web_access.WebAccess`.
    :ivar version: of Impala, as which it behaves; default HEAD.
    :ivar admins: users who may kill everybody's statements; default none.
    :ivar parent: id of the process that it is forked from, and with which it ends; 0 (default): not known yet.
    :ivar port: for HiveServer2; 0 (default): chosen by the process.
    :ivar web_port: for the web pages; 0 (default): chosen by the process.
    :ivar metrics_port: for the metrics alone, if there is such a port; 0 (default): chosen by the process.
    """

    name: str
    directory: str
    flags: Mapping[str, float]
    allow: Sequence[str]
    users: str | None
    web: str
    version: str = HEAD
    admins: Sequence[str] = ()
    parent: int = 0
    port: int = 0
    web_port: int = 0
    metrics_port: int = 0

    @classmethod
    def of_json(cls, text: str) -> NodeSettings:
        """The settings that :meth:`json` wrote.

        :param text: one JSON object.
        """
        return cls(**json.loads(text))

    def json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    @property
    def activity_file(self) -> Path:
        """What the coordinator did, over all its starts."""
        return Path(self.directory) / f"{self.name}.journal.jsonl"

    @property
    def switches_directory(self) -> Path:
        """The switches by which a test holds, delays or fails it."""
        return Path(self.directory) / f"{self.name}.switches"

    @property
    def load_file(self) -> Path:
        """The load that it pretends to have."""
        return Path(self.directory) / f"{self.name}.load.json"
