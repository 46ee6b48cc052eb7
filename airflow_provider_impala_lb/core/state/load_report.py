"""What a node reported of its load: the record that probes make, and that a site's own agent may send instead."""

# No postponed annotations here: msgspec would compile each of them anew in every process, which is most of what
# importing this file would cost.
import re
from typing import Any

import msgspec

from airflow_provider_impala_lb.errors import ConfigError


class LoadSample(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What one node reported of its load at one moment. What it did not report is None, or not among the shares.

    :param queries: registered on the coordinator, by whomever; with those that wait to be closed.
    :param sessions: open, by whomever.
    :param queued: queries that wait on this coordinator for admission, in all pools.
    :param shares: free share, 0 (none left) to 1 (all of it), by resource. A probe reports ``cpu``, ``memory``,
        ``disk``, ``processes``, ``connections``, ``heap`` and ``admission``; a site's agent also what it likes.
    :param quiescing: it shuts down: it runs what it has, and takes nothing new.
    """

    queries: float | None = None
    sessions: int | None = None
    queued: int | None = None
    shares: dict[str, float] = {}
    quiescing: bool = False


class ExporterCounters(msgspec.Struct, omit_defaults=True):
    """Counters of one scrape of a host's exporter, in seconds: two of them give the share used in between.

    Whoever probes in short-lived processes keeps them, and hands them to the next probe as ``before``.

    :param at: when, by the host's own clock (seconds since 1970).
    :param idle: CPU seconds spent idle, all CPUs together.
    :param total: CPU seconds spent in any mode, all CPUs together.
    :param disks: for each device, how long it was busy.
    """

    at: float
    idle: float
    total: float
    disks: dict[str, float] = {}


class ProbeResult(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One node, probed.

    :param sample: what it reported.
    :param counters: for the next probe's ``before``; None without an exporter.
    :param missing: what did not answer though the node did (``web`` or ``exporter``) -> why.
    """

    sample: LoadSample
    counters: ExporterCounters | None = None
    missing: dict[str, str] = {}


class LastReport(msgspec.Struct, omit_defaults=True):
    """What a node reported last, whole. All but ``at`` and ``counters`` are keys of ``status``, too.

    :param at: when it was asked.
    :param shares: free shares (0 to 1) by name.
    :param queries: registered on it; None: it did not say.
    :param sessions: open on it; None: it did not say.
    :param queued: queries that wait on it for admission; None: it did not say.
    :param failed: why it did not answer the last time; the rest is then older.
    :param missing: what of it did not answer -> why.
    :param counters: what the next probe needs to turn its own into rates.
    """

    at: float
    shares: dict[str, float] = {}
    queries: float | None = None
    sessions: int | None = None
    queued: int | None = None
    failed: str = ""
    missing: dict[str, str] = {}
    counters: ExporterCounters | None = None


_ALLOWED = {
    "queries": "a number, 0 or more",
    "sessions": "a whole number, 0 or more",
    "queued": "a whole number, 0 or more",
    "shares": "a mapping of names (a-z and _) to numbers within 0 and 1",
    "quiescing": "true or false",
}


def parse_sample(text: str | bytes) -> LoadSample:
    """A sample from JSON.

    :param text: an object with the fields of `LoadSample`.
    :raises ConfigError: names the key, its value, and what is allowed.
    """
    try:
        raw = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"report: is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"report: {_shown(raw)} is not an object with keys; allowed: {', '.join(_ALLOWED)}")
    for key, value in raw.items():
        if key not in _ALLOWED:
            raise ConfigError(f"report: {_shown(key)[1:-1]}: unknown key; allowed: {', '.join(_ALLOWED)}")
        if key == "shares" and isinstance(value, dict):
            _check_shares(value)
    for key in raw:
        try:
            msgspec.convert({key: raw[key]}, LoadSample)
        except msgspec.ValidationError:
            raise _refused(key, raw[key], _ALLOWED[key]) from None
    for key in ("queries", "sessions", "queued"):
        if raw.get(key) is not None and not 0 <= raw[key] < float("inf"):
            raise _refused(key, raw[key], _ALLOWED[key])
    return msgspec.convert(raw, LoadSample)


def _check_shares(shares: dict[str, Any]) -> None:
    for name, share in shares.items():
        if not re.fullmatch(r"[a-z_]+", name):
            raise ConfigError(f"report: shares: the name {_shown(name)} may hold only a-z and _")
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise _refused(f"shares.{name}", share, "a number within 0 and 1: the share that is free")


def _refused(key: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"report: {key}: {_shown(value)} is not {allowed}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:76] + "..."
