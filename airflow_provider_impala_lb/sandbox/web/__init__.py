"""The debug web port of a coordinator: pages and metrics, with the numbers that it really has.

It may import `sandbox/common` and `sandbox/coordinator`. `pages.py` serves the pages; `metrics.py` has the metrics,
which include the load that a test lets the coordinator pretend to have (`simulated_load.py`). Who may see the
pages is `common/web_access.py`'s.
"""
