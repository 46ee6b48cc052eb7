"""Where the state that all workers share lies, and the scripts' journals.

A store does one thing: run a pure function on the state, while nobody else does. So it knows the state as something to
encode and decode, and no rule of the balancer. It implements the protocols of core/ports.py, and imports only core
(ports, state, config, timing) and errors.

Read in this order: memory.py (what a store is, in 30 lines), file/ (one file that hosts share: the common case),
journals/ (what must not be lost, beside that file), redis/ (the same in a Redis server), factory.py (which of them a
configuration has, and how to add one).
"""
