"""Run whole SQL scripts on one Impala coordinator, in one session, chosen by a balancer all workers share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Balancer", "__version__"]

if TYPE_CHECKING:
    from airflow_provider_impala_lb.balancer import Balancer


def __getattr__(name: str) -> Any:
    # Airflow reads this package at every start (provider discovery), so the balancer is loaded on first use.
    if name == "Balancer":
        from airflow_provider_impala_lb.balancer import Balancer

        return Balancer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
