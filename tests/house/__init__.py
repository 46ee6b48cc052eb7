"""The rules of the house, which `tests/test_structure.py` holds: what may import what, and how long, wide and
documented it may be.

* ``source_tree``: reads Python files without running them.
* ``architecture``: the floors, and the picture of them in docs/architecture.md (``make architecture``).
* ``rules``: one function for each rule, and the exceptions with their reasons. ``python -m tests.house.rules`` lists
  what breaks them.
"""
