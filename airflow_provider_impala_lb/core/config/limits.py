"""Times that can be meant: each setting in seconds has a least and a greatest value, and a reason for them."""

from __future__ import annotations

from airflow_provider_impala_lb.errors import ConfigError

DAY, WEEK = 86400.0, 7 * 86400.0


def check_seconds(key: str, value: float, most: float, why: str, *, least: float | None = None) -> None:
    """:param key: what to call it in the error.
    :param most: the greatest value; ``least`` the smallest, None: anything above 0.
    :param why: the reason for ``most``.
    :raises ConfigError: outside of these, or no number (nan).
    """
    if not (value > 0 if least is None else value >= least) or value > most:
        low = "above 0" if least is None else f"{least:g} or more"
        raise ConfigError(f"{key}: is {value:g}, must be {low} and at most {most:.0f} seconds ({why})")
