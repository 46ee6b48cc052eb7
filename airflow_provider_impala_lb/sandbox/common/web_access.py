"""Who may see the web pages: Impala's ways of logging in, and TLS (be/src/util/webserver.cc)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import ssl
import threading
from collections import deque
from dataclasses import asdict, dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from urllib.request import parse_http_list as comma_list
from urllib.request import parse_keqv_list as key_values

from airflow_provider_impala_lb.sandbox.common.private_files import write_private

# What Impala's web server (squeasel) calls itself without --webserver_authentication_domain.
REALM = "mydomain.com"
MODES = ("none", "digest", "basic", "bearer")
_OWN = "X-Sandbox-Key"


@dataclass
class WebAccess:
    """How the web server is reached.

    :ivar auth: ``digest`` as with ``--webserver_password_file``, ``basic`` as with ``--webserver_require_ldap``,
        ``bearer`` as with a JWT; ``none`` (default).
    :ivar users: login -> password; for ``bearer`` the passwords are the tokens. Default none.
    :ivar certificate: PEM file with the certificate and its key (``--webserver_certificate_file``); None (default): no
        TLS.
    :ivar metrics_port: is there a second port, without any login, for metrics only (``--metrics_webserver_port``)?
        Default False.
    :ivar key: by which the sandbox's own processes are let in; default a random one.
    """

    auth: str = "none"
    users: dict[str, str] = field(default_factory=dict, repr=False)
    certificate: str | None = None
    metrics_port: bool = False
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    def __post_init__(self) -> None:
        if self.auth not in MODES:
            raise ValueError(f"web_auth={self.auth!r}: one of {', '.join(MODES)}.")
        if (self.auth != "none") != bool(self.users):
            raise ValueError("web_auth and web_users: both, or neither.")
        self._nonces: deque[str] = deque(maxlen=1000)
        self._lock = threading.Lock()

    @classmethod
    def read(cls, path: Path) -> WebAccess:
        """What :meth:`write` wrote.

        :param path: the file.
        """
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """Write it to a private file, for the coordinators' processes.

        :param path: the file.
        """
        write_private(path, json.dumps(asdict(self)))

    def url(self, host: str, port: int) -> str:
        """The URL of a web server that is reached this way.

        :param host: name or address.
        :param port: its port.
        """
        return f"{'https' if self.certificate else 'http'}://{host}:{port}"

    def context(self) -> ssl.SSLContext | None:
        """TLS for the server's socket; None: none."""
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        return context

    def challenge(self, method: str, path: str, headers: Message) -> str | None:
        """May this request see the page?

        :param method: such as ``GET``.
        :param path: with the query.
        :param headers: the request's.
        :returns: None: yes. Else the header ``WWW-Authenticate`` of a 401.
        """
        if self.auth == "none" or _same(headers.get(_OWN, ""), self.key):
            return None
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == self.auth and getattr(self, f"_{self.auth}")(method, path, given):
            return None
        if self.auth == "digest":
            nonce = secrets.token_hex(8)
            with self._lock:
                self._nonces.append(nonce)
            return f'Digest qop="auth", realm="{REALM}", nonce="{nonce}"'
        return f"{self.auth.capitalize()} realm={REALM}"

    def _basic(self, method: str, path: str, given: str) -> bool:
        try:
            user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except ValueError:
            return False
        return user in self.users and _same(self.users[user], password)

    def _bearer(self, method: str, path: str, given: str) -> bool:
        return any(_same(token, given) for token in self.users.values())

    def _digest(self, method: str, path: str, given: str) -> bool:
        try:
            fields: dict[str, str] = key_values(comma_list(given))
        except (ValueError, IndexError):
            return False
        with self._lock:
            known = fields.get("nonce") in self._nonces
        user = fields.get("username", "")
        if not known or user not in self.users or fields.get("uri") != path:
            return False
        # An htdigest file has the first of these hashes in it.
        first = _md5(f"{user}:{REALM}:{self.users[user]}")
        second = _md5(f"{method}:{path}")
        middle = ":".join(fields.get(name, "") for name in ("nonce", "nc", "cnonce", "qop"))
        return _same(fields.get("response", ""), _md5(f"{first}:{middle}:{second}"))


def open_page(url: str, key: str, timeout: float) -> Any:
    """A page for the sandbox's own use, whatever login or certificate it has.

    :param url: with the query.
    :param key: the cluster's :attr:`WebAccess.key`.
    :param timeout: seconds.
    :returns: the response, a context manager.
    :raises OSError: no answer, or one with an error's status.
    """
    context = ssl._create_unverified_context() if url.startswith("https:") else None  # noqa: S323 (loopback)
    return urlopen(Request(url, headers={_OWN: key}), timeout=timeout, context=context)  # noqa: S310


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
