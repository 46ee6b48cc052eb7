"""Connections of a hook, in an attempt of a task."""

import time

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.impala.dbapi import ConnectOptions, connect
from tests.support.resumed_scripts import OWNER


def connection(balancer, attempt=1, **keys):
    """:param keys: of `ConnectOptions`"""
    attempt, tags = Attempt(attempt, time.time()), {"try": str(attempt)}
    options = ConnectOptions(owner=balancer.config.owner_of(OWNER), attempt=attempt, tags=tags, **keys)
    return connect(balancer.cluster, balancer.sessions, options)
