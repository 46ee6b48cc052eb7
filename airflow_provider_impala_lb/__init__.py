"""Run whole SQL scripts on one Impala coordinator, in one session, chosen by a balancer all workers share.

A program that is no Airflow task begins with `Balancer`; a DAG with `operators.impala_lb` or `hooks.impala_lb`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Balancer",
    "ConfigError",
    "ImpalaLBError",
    "JournalDamaged",
    "JournalMissing",
    "MustWait",
    "NoNodeAvailable",
    "Pick",
    "ScriptError",
    "StateUnavailable",
    "StatementFailed",
    "StillRunning",
    "Superseded",
    "__version__",
]

if TYPE_CHECKING:
    from airflow_provider_impala_lb.balancer import Balancer
    from airflow_provider_impala_lb.core.cluster.pick import Pick
    from airflow_provider_impala_lb.errors import (
        ConfigError,
        ImpalaLBError,
        JournalDamaged,
        JournalMissing,
        MustWait,
        NoNodeAvailable,
        ScriptError,
        StatementFailed,
        StateUnavailable,
        StillRunning,
        Superseded,
    )

_MODULES = {"Balancer": "balancer", "Pick": "core.cluster.pick"}


def __getattr__(name: str) -> Any:
    # Airflow reads this package at every start (provider discovery), so all is loaded on first use.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
