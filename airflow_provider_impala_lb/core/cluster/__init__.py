"""The objects that run the rules on the shared state, for one process. Threads may share them.

Imports the rest of `core`. Read in this order:

* `shared_state`: the store, checked to be this cluster's;
* `discovery`: finds the nodes, where they are not listed; `load_reports`: asks them for their load;
  `session_keys`: what a key brings along;
* `lease_options`, `lease_keeper`: what a script may want of its lease, and the thread that renews it;
* `pick`: a chosen node; `waiting`: one who waits for his turn; `picker`: how a node is come by, with or without that;
* `fencing`: earlier attempts at the same work run nothing more;
* `admin`: what people see, and an operator's orders;
* `cluster`: makes them all.
"""
