"""One finding of the doctor."""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, omit_defaults=True):
    """:param name: what was looked at. :param says: what was found. :param do: what to do about it, if anything."""

    name: str
    verdict: Literal["ok", "warning", "failed"]
    says: str
    do: str = ""
