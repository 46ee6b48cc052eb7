"""Coordinators are killed, stopped, drained and loaded, most of it at random, while scripts run: no script runs twice,
none reads stale data, none is sent to a node that has no room. How long and how often: `tests.support.sizes`.
"""
