"""``impala-lb doctor --protocol`` once, as a user types it. All else of it: test_protocol.py, in the slow suite."""

import json

import pytest

from airflow_provider_impala_lb.balancer import Balancer
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.command_line import lb


@pytest.mark.slow
@pytest.mark.since("HEAD", "not all can be proved")
def test_a_cluster_on_which_all_can_be_proved():
    with Sandbox(nodes=1, lag=0) as cluster:
        with Balancer.from_config(str(cluster.config_file)).sessions.open(cluster.nodes[0].address) as session:
            session.execute("CREATE DATABASE scratch")
        done = lb("doctor", "--protocol", "scratch", "--json", config=cluster.config_file)
        found = json.loads(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
        assert {each["verdict"] for each in found} == {"ok"}, done.stdout
        assert "its fate is known" in found[-1]["message"]
        assert cluster.password not in done.stdout + done.stderr
