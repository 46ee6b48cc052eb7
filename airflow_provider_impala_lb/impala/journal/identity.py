"""Who runs a script, and what its names stand for: what a journal is kept under, and held against."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from airflow_provider_impala_lb.core.config.model import Config
from airflow_provider_impala_lb.core.state.model import Attempt


class Target(msgspec.Struct, frozen=True):
    """What a script's names stand for, and by whose rights.

    :param connection: the connection's id, or the configuration's name.
    :param database: that a session begins in.
    :param user: of a session; "": whoever the process runs as.
    """

    connection: str = ""
    database: str = ""
    user: str = ""

    def changes(self, earlier: Target | None) -> str:
        """What is not the same any more, in words; "" if all is, or nothing is known of it.

        :param earlier: as it was; None: not known.
        """
        changes = [
            f"{name} was {getattr(earlier, name) or 'not given'} and is {getattr(self, name) or 'not given'}"
            for name in self.__struct_fields__
            if earlier is not None and getattr(earlier, name) != getattr(self, name)
        ]
        return f"the script is the same, but its {', its '.join(changes)}," if changes else ""


class RunIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs a script.

    :param owner: for the lease and the journal, e.g. ``dag/run/task[map]``; "": nobody in particular.
    :param tags: for the label of each statement, e.g. ``{"dag": ..., "task": ...}``.
    :param attempt: which attempt of ``owner`` this is; a second one's journal must be there. None: not known.
    :param one_at_a_time: ``owner`` has one run at a time: first end what an earlier attempt has left running, and see
        it ended.
    :param connection: the id of the Airflow connection; "" (default): the configuration's name stands for it.
    :param deployment: of the configuration, part of ``owner``; see :meth:`completed`.
    :param target: see :meth:`completed`.
    """

    owner: str = ""
    tags: Mapping[str, str] = {}
    attempt: Attempt | None = None
    one_at_a_time: bool = False
    connection: str = ""
    deployment: str = ""
    target: Target = Target()

    def completed(self, config: Config, database: str | None) -> RunIdentity:
        """With what the configuration says of who runs a script, and of what its names stand for.

        :param config: of the cluster.
        :param database: that the script's author chose; None: the configuration's.
        """
        target = Target(
            connection=self.connection or config.name,
            database=(database or config.session.database or "default").lower(),
            user=config.session.user or "",
        )
        owner = config.owner_of(self.owner)
        return msgspec.structs.replace(self, owner=owner, deployment=config.deployment or "", target=target)
