"""A script on the Spark servers, with what every test of them wants of it."""

import logging

from airflow_provider_impala_lb.impala.sql.splitter import split
from tests.support.scripts import script_run

LOG = logging.getLogger("test.run")


def run(balancer, script, node=None, **options):
    """Run it to its end, on ``node`` if there is one."""
    options = {"handler": rows_of, "prefer": node and node.address, "logger": LOG, **options}
    return script_run(balancer, split(script), **options).run()


def rows_of(cursor):
    """As common-sql's handlers do, which are made for every database."""
    return cursor.fetchall() if cursor.description is not None else None
