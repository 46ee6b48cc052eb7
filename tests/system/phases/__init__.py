"""A process is killed, or stopped until it is taken for lost, at a given point of a script; then comes its successor.

``points`` are the moments, ``process`` is a worker or triggerer that stops at one, ``lab`` is one script's table, state
and Impala user. Each test module declares its cases and a ``check(case, lab)``; the fixture ``found`` runs all cases of
a module side by side, and each test asks for what its own has found.
"""
