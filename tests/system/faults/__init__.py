"""A relay between the balancer and a coordinator (`tests.support.relay`) breaks connections where a test wants it to:
each call of a script, each way to break. What the run reports is then held against what the coordinators' journals and
the data show (``judge``): no statement that changes something ran twice, none that did not run is reported as done.

``test_each_point`` goes over the calls one by one, ``test_random`` over many at random; the other files have one hazard
each. ``node_pages`` waits until nothing of a test is at work any more.
"""
