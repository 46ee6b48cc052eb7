"""The configuration: what the user writes, and what is made of it.

Imports `errors`. Read in this order:

* `address`: ``host:port``, one spelling for each node;
* `store_url`: the URL of a Redis;
* `model`: the checked configuration, as the rest of the package uses it;
* `value_limits`: of single values, also of what is written elsewhere (an operator's times, a lease's);
* `yaml_file`: what YAML reads otherwise than people mean it;
* `parse`: `load` and `parse`, all checks, and their errors in the author's words.
"""
