"""What one script left on its coordinator, for the next one that runs on another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

_NAME = re.compile(r"\w+(\.\w+)?")


class Upstream(msgspec.Struct):
    """Where the script before ran, and what it left. It travels through XCom as a plain dict.

    :param host: ``host:port``.
    :param ended: ``time.time()`` at its end, or None if that is not known.
    :param published: every coordinator had all its changes when it ended.
    :param written: ``db.table`` (or ``db``) of what is there, with new rows or a new definition.
    :param dropped: the same of what is there no more.
    :param complete: nothing else was changed.
    :param unpublished: what others may not have heard of then, of ``written`` and ``dropped``; None: not known.
    """

    host: str = ""
    ended: float | None = None
    published: bool = False
    written: list[str] = []
    dropped: list[str] = []
    complete: bool = False
    unpublished: list[str] | None = None

    @classmethod
    def of(cls, value: Any) -> Upstream:
        """From what an XCom holds, perhaps of an older version or of another author: what does not fit is unknown.
        Names are put into SQL: one that no table can have makes the list incomplete.

        :param value: what the XCom holds, of any type.
        """
        fields = value if isinstance(value, Mapping) else {}
        host, ended = fields.get("host"), fields.get("ended")
        written, written_whole = _names(fields.get("written"))
        dropped, dropped_whole = _names(fields.get("dropped"))
        unpublished, unpublished_whole = _names(fields.get("unpublished"))
        published = fields.get("published") is True
        return cls(
            host=host if isinstance(host, str) else "",
            ended=float(ended) if isinstance(ended, (int, float)) and not isinstance(ended, bool) else None,
            published=published,
            unpublished=[] if published else unpublished if unpublished_whole else None,
            written=written,
            dropped=dropped,
            complete=fields.get("complete") is True and written_whole and dropped_whole,
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready values, for an XCom."""
        return {name: getattr(self, name) for name in self.__struct_fields__}

    def after(self, before: Iterable[Upstream]) -> Upstream:
        """With what was left by those that ran before: whoever goes on from here builds on that too.

        :param before: in the order in which they ran.
        """
        actions: dict[str, str] = {}
        every = [*before, self]
        unpublished: dict[str, None] | None = {}
        for each in every:
            for name in each.dropped:
                for gone in [known for known in actions if known == name or known.startswith(f"{name}.")]:
                    del actions[gone]
                    if unpublished is not None:
                        unpublished.pop(gone, None)
            for kind, names in (("dropped", each.dropped), ("written", each.written)):
                for name in names:
                    actions.pop(name, None)
                    actions[name] = kind
                    if unpublished is not None:
                        unpublished.pop(name, None)  # that is newer, and stands for what was before
            more = [] if each.published else each.unpublished
            if unpublished is None or more is None:
                unpublished = None
            else:
                unpublished.update(dict.fromkeys(more))
        return Upstream(
            host=self.host,
            ended=self.ended,
            published=unpublished == {},
            unpublished=None if unpublished is None else list(unpublished),
            written=[name for name, kind in actions.items() if kind == "written"],
            dropped=[name for name, kind in actions.items() if kind == "dropped"],
            complete=all(each.complete for each in every),
        )


def _names(value: Any) -> tuple[list[str], bool]:
    if not isinstance(value, (list, tuple)):
        return [], False
    fitting = [name for name in value if isinstance(name, str) and _NAME.fullmatch(name)]
    return fitting, len(fitting) == len(value)
