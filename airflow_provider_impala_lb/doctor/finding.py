"""One finding of the doctor."""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, omit_defaults=True):
    """What was found about one thing; `impala-lb doctor --json` prints it with these names.

    :ivar name: what was looked at.
    :ivar verdict: ok, warning or failed.
    :ivar message: what was found.
    :ivar remedy: what to do about it; "" if there is nothing to do.
    """

    name: str
    verdict: Literal["ok", "warning", "failed"]
    message: str
    remedy: str = ""
