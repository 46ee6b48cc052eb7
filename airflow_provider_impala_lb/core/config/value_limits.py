"""Checks of single values that a user wrote, in the configuration or elsewhere."""

from __future__ import annotations

from airflow_provider_impala_lb.core.config.model import WebAuth
from airflow_provider_impala_lb.core.text import shown
from airflow_provider_impala_lb.errors import ConfigError

DAY, WEEK = 86400.0, 7 * 86400.0
"""In seconds."""


def check_seconds(key: str, value: float, most: float, reason: str, *, least: float | None = None) -> None:
    """Whether a setting in seconds can be meant.

    :param key: what to call it in the error.
    :param value: what somebody set.
    :param most: the greatest value, in seconds.
    :param reason: for ``most``.
    :param least: the smallest value, in seconds; None (default): anything above 0.
    :raises ConfigError: outside of these, or no number (nan).
    """
    if not (value > 0 if least is None else value >= least) or value > most:
        low = "above 0" if least is None else f"{least:g} or more"
        raise ConfigError(f"{key}: is {value:g}, must be {low} and at most {most:.0f} seconds ({reason})")


def check_url(where: str, url: str) -> None:
    """Whether a text is ``http(s)://host...`` without a login in it.

    :param where: what to call it in the error.
    :param url: what somebody wrote.
    :raises ConfigError: it is not; one that has a login is not shown.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        named = False
        parts = None
    if "@" in (parts.netloc if parts else url):
        raise ConfigError(
            f"{where}: (value not shown) must not hold a login: set load.web_auth and load.web_user, and the "
            "environment's IMPALA_LB_WEB_PASSWORD"
        )
    if not named or parts is None or parts.query or parts.fragment:
        raise ConfigError(f"{where}: {shown(url)} is not a URL like http://host:25000 or https://host:25000")


def check_port(where: str, port: int) -> None:
    """Whether a number is a TCP port.

    :param where: what to call it in the error.
    :param port: what somebody wrote.
    :raises ConfigError: it is not.
    """
    if not 0 < port < 65536:
        raise ConfigError(f"{where}: {port} is not between 1 and 65535")


def in_clear_text(url: str, web_auth: WebAuth) -> bool:
    """Whether the password or token would cross a network readable. Digest only sends a hash of it.

    :param url: of a coordinator's page.
    :param web_auth: how it wants a login.
    """
    import ipaddress
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if web_auth not in ("basic", "bearer") or parts.scheme == "https":
        return False
    host = parts.hostname or ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
