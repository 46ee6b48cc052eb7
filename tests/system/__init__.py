"""Whole scripts, whole clusters and real processes, against what goes wrong in the world.

* ``faults``: the network breaks, at each call of a script, in each way.
* ``phases``: a worker, a triggerer or a coordinator is killed or stopped in each phase of a script.
* ``chaos``: coordinators are killed, stopped, drained and loaded at random, while scripts run.
* ``races``: many processes on one store are killed while they write.
* ``spark``: a HiveServer2 that nobody here wrote.
* ``other_languages``: the programs of docs/examples.
"""
