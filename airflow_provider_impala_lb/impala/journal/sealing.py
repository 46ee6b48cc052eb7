"""What must not be read in a journal, sealed with a key that is not there: secrets of sessions, and texts of scripts.

The secret of a session is all that Impala asks of whoever closes it, or goes on with what runs in it
(``ImpalaServer::CloseSession``, ``WithSession`` in be/src/service/impala-hs2-server.cc).
"""

from __future__ import annotations

import base64
import functools

_SALT = b"airflow-provider-impala-lb: sealed in a journal"
_COST = 1 << 13
"""Of scrypt, with blocks of 8: 8 MB and some 20 ms for each guess at a password, and once in a process."""
_PLAIN = "plain:"


class Sealer:
    """Seals and opens what one connection keeps in its journals.

    :param key: any text that all processes of the connection have, and whoever reads the journals has not: its
        ``seal_key``, else its password. "": neither is there, and only the store's own rights protect what is kept.
    """

    def __init__(self, key: str) -> None:
        self._key = key

    def seal(self, secret: bytes) -> str:
        """As text that only this key opens.

        :param secret: any bytes.
        """
        if not self._key:
            return _PLAIN + base64.b64encode(secret).decode()
        from cryptography.fernet import Fernet

        return Fernet(_derived(self._key)).encrypt(secret).decode()

    def open(self, text: str) -> bytes | None:
        """What was sealed.

        :param text: what :meth:`seal` returned, maybe in another process.
        :returns: None: it was sealed with another key, or is damaged.
        """
        if text.startswith(_PLAIN):
            try:
                return base64.b64decode(text.removeprefix(_PLAIN), validate=True)
            except ValueError:
                return None
        if not self._key:
            return None
        from cryptography.fernet import Fernet, InvalidToken

        try:
            return Fernet(_derived(self._key)).decrypt(text.encode())
        except (InvalidToken, ValueError):
            return None


@functools.lru_cache(maxsize=64)
def _derived(key: str) -> bytes:
    import hashlib

    # Not a plain hash: a password can be guessed, by whoever has what it sealed.
    return base64.urlsafe_b64encode(hashlib.scrypt(key.encode(), salt=_SALT, n=_COST, r=8, p=1, dklen=32))
