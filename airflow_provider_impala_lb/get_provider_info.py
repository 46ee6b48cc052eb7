"""What Airflow reads about this package at its start. No imports: it is read by every component, each time."""

from __future__ import annotations

from typing import Any

CONNECTION_FIELDS: dict[str, dict[str, Any]] = {
    "lock_file": {
        "label": "Lock file",
        "description": "File that all workers on all hosts share, on a NAS mounted at the same path everywhere.",
        "schema": {"type": ["string", "null"]},
    },
    "policy": {
        "label": "Policy",
        "description": "least_loaded (default), round_robin, weighted_random or power_of_two.",
        "schema": {
            "type": ["string", "null"],
            "enum": ["least_loaded", "round_robin", "weighted_random", "power_of_two"],
        },
    },
    "deployment": {
        "label": "Deployment",
        "description": "Where several Airflows share the lock file or the store: a name of this one.",
        "schema": {"type": ["string", "null"]},
    },
    "config_file": {
        "label": "Config file",
        "description": "Instead of all other fields: path of a YAML file with the whole configuration.",
        "schema": {"type": ["string", "null"]},
    },
}

FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": [],
    "relabeling": {"host": "Coordinators", "schema": "Database", "port": "Default port"},
    "placeholders": {
        "host": "impala-1:21050,impala-2:21050",
        "port": "21050",
        "login": "the user of the sessions",
        "extra": '{"lock_file": "/nas/impala/node_in_use.tmp", "session": {"auth_mechanism": "LDAP"}}',
    },
}


def get_provider_info() -> dict[str, Any]:
    """The provider's metadata (Airflow's ``provider_info.schema.json``)."""
    return {
        "package-name": "airflow-provider-impala-lb",
        "name": "Impala (balanced)",
        "description": "Whole SQL scripts on one Impala coordinator, in one session, chosen by a shared balancer.",
        "connection-types": [
            {
                "connection-type": "impala_lb",
                "hook-class-name": "airflow_provider_impala_lb.hooks.impala_lb.ImpalaLBHook",
                "ui-field-behaviour": FIELD_BEHAVIOUR,
                "conn-fields": CONNECTION_FIELDS,
            }
        ],
    }
