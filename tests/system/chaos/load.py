"""How nodes' reports are weighed where a test moves their load itself."""

# The machine's own load must not decide: only the shares that set_load moves have a weight.
WEIGHTS = dict.fromkeys(("cpu", "disk", "processes", "connections", "admission"), 0)
LOAD = {"busy": 0.2, "overloaded": 0.1, "floor": 0.0, "refresh": 1, "weights": WEIGHTS}
"""The configuration's ``load``."""
