"""Where a configuration's state and journals lie: the one place that knows all kinds of stores."""

from __future__ import annotations

import os

from airflow_provider_impala_lb.core.config.model import Config
from airflow_provider_impala_lb.core.ports import JournalStore, Mirror, Store
from airflow_provider_impala_lb.stores.file.store import FileStore
from airflow_provider_impala_lb.stores.journals.file import FileJournals
from airflow_provider_impala_lb.stores.memory import MemoryStore


def open_store(config: Config) -> Store:
    """The store of a configuration: its Redis, its lock file, or for one node without either this process's memory.

    A Redis password that is not in its URL comes from the environment's ``IMPALA_LB_STORE_PASSWORD``.
    """
    if config.store:
        # Here, as below: `ssl` and the rest of it are a tenth of the time that `impala-lb pick` takes.
        from airflow_provider_impala_lb.stores.redis.store import RedisStore

        return RedisStore(config.store, config.name, password=os.environ.get("IMPALA_LB_STORE_PASSWORD"))
    return FileStore(config.lock_file) if config.lock_file else MemoryStore()


def open_journals(config: Config) -> JournalStore | None:
    """Where the scripts' journals are: the configuration's Redis, or a directory beside its lock file. None if it has
    neither: then nobody else could resume.

    A Redis password that is not in its URL comes from the environment's ``IMPALA_LB_STORE_PASSWORD``.
    """
    if config.store:
        from airflow_provider_impala_lb.stores.redis.journals import RedisJournals

        return RedisJournals(config.store, config.name, password=os.environ.get("IMPALA_LB_STORE_PASSWORD"))
    return FileJournals(config.lock_file) if config.lock_file else None


def open_mirror(config: Config) -> Mirror | None:
    """The configuration's mirror. Its password, if not in the URL, is the environment's ``IMPALA_LB_STORE_PASSWORD``.

    :raises ConfigError: redis-py is not installed.
    """
    if config.mirror is None:
        return None
    from airflow_provider_impala_lb.stores.redis.mirror import RedisMirror

    return RedisMirror(config.mirror, config.name, password=os.environ.get("IMPALA_LB_STORE_PASSWORD"))
