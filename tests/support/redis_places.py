"""The state and journals in a Redis of the tests."""

from airflow_provider_impala_lb.core.config.store_url import parse_store
from airflow_provider_impala_lb.stores.journals.document import name_of
from airflow_provider_impala_lb.stores.redis.journals import RedisJournals
from airflow_provider_impala_lb.stores.redis.store import RedisStore
from tests.support.store_changes import KEY

HASH = "{wh}:journal:" + name_of(KEY)
"""Redis's key of the journal `KEY`."""


def store_of(server, name="wh"):
    return RedisStore(parse_store(server.url), name)


def journals_of(server, deadline=5.0):
    return RedisJournals(parse_store(getattr(server, "url", server)), "wh", deadline=deadline)
