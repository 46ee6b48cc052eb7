"""Where a configuration's state, journals and mirror lie: the one place that knows all kinds of stores.

To add a store:

1. Write its classes in a folder of its own here: one that keeps the state (`core.ports.Store`), and if scripts are to
   be resumable one that keeps journals (`JournalStore`). What they have to promise is tested in
   tests/stores/journals/test_journals.py and tests/system/races: add the new store to their fixtures.
2. Let `core.config.store_url.parse_store` read its URL.
3. Add one entry to `KINDS`, under the scheme of that URL.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from airflow_provider_impala_lb.core.config.model import Config
from airflow_provider_impala_lb.core.config.store_url import StoreUrl
from airflow_provider_impala_lb.core.ports import JournalStore, Mirror, Store


class StoreKind(NamedTuple):
    """How what a cluster shares is opened in one kind of place.

    :ivar state: opens the state of a configuration.
    :ivar journals: opens its scripts' journals; None: nobody else can see what is in such a place.
    :ivar mirror: opens its mirror of session records, at a URL; None: such a place cannot be one.
    """

    state: Callable[[Config], Store]
    journals: Callable[[Config], JournalStore] | None = None
    mirror: Callable[[Config, StoreUrl], Mirror] | None = None


def open_store(config: Config) -> Store:
    """The store of a configuration: its Redis, its lock file, or for one node without either this process's memory.

    A Redis password that is not in its URL comes from the environment's ``IMPALA_LB_STORE_PASSWORD``.

    :param config: the configuration.
    :raises ConfigError: redis-py is not installed.
    """
    return KINDS[_kind_of(config)].state(config)


def open_journals(config: Config) -> JournalStore | None:
    """Where the scripts' journals are: the configuration's Redis, or a directory beside its lock file. None if it has
    neither: then nobody else could resume.

    A Redis password that is not in its URL comes from the environment's ``IMPALA_LB_STORE_PASSWORD``.

    :param config: the configuration.
    :raises ConfigError: redis-py is not installed.
    """
    journals = KINDS[_kind_of(config)].journals
    return journals(config) if journals else None


def open_mirror(config: Config) -> Mirror | None:
    """The configuration's mirror of session records, None if it has none.

    A password that is not in its URL comes from the environment's ``IMPALA_LB_MIRROR_PASSWORD``: it is another server
    than the store's, which must not be told that one's.

    :param config: the configuration.
    :raises ConfigError: redis-py is not installed.
    """
    if config.mirror is None:
        return None
    mirror = KINDS[_scheme_of(config.mirror)].mirror
    return mirror(config, config.mirror) if mirror else None


def _kind_of(config: Config) -> str:
    if config.store:
        return _scheme_of(config.store)
    return "file" if config.lock_file else "memory"


def _scheme_of(url: StoreUrl) -> str:
    """What the URL begins with, without what follows a ``+``: redis, rediss."""
    return str(url).partition(":")[0].partition("+")[0]


def _password() -> str | None:
    return os.environ.get("IMPALA_LB_STORE_PASSWORD")


def _lock_file(config: Config) -> str:
    assert config.lock_file is not None
    return config.lock_file


def _store_url(config: Config) -> StoreUrl:
    assert config.store is not None
    return config.store


# Each is imported where it is used: redis-py alone takes longer than all else of `impala-lb pick`.
def _memory_state(config: Config) -> Store:
    from airflow_provider_impala_lb.stores.memory import MemoryStore

    return MemoryStore()


def _file_state(config: Config) -> Store:
    from airflow_provider_impala_lb.stores.file.store import FileStore

    return FileStore(_lock_file(config))


def _file_journals(config: Config) -> JournalStore:
    from airflow_provider_impala_lb.stores.journals.file import FileJournals

    return FileJournals(_lock_file(config))


def _redis_state(config: Config) -> Store:
    from airflow_provider_impala_lb.stores.redis.store import RedisStore

    return RedisStore(_store_url(config), config.name, password=_password())


def _redis_journals(config: Config) -> JournalStore:
    from airflow_provider_impala_lb.stores.redis.journals import RedisJournals

    return RedisJournals(_store_url(config), config.name, password=_password())


def _redis_mirror(config: Config, url: StoreUrl) -> Mirror:
    from airflow_provider_impala_lb.stores.redis.mirror import VARIABLE, RedisMirror

    return RedisMirror(url, config.name, password=os.environ.get(VARIABLE))


_REDIS = StoreKind(state=_redis_state, journals=_redis_journals, mirror=_redis_mirror)

KINDS = {
    "memory": StoreKind(state=_memory_state),
    "file": StoreKind(state=_file_state, journals=_file_journals),
    "redis": _REDIS,
    "rediss": _REDIS,
}
"""By name, or by the scheme of their URL."""
