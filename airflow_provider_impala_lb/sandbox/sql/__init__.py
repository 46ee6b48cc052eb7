"""Impala's SQL over DuckDB: from a statement's text to a plan, and what the plan does to files and catalog.

It knows the coordinator, the session and the running statement by protocols only (`analysis.py`, `plan.py`); it may
import `sandbox/common`. To be read in this order:

* a statement: `lexer.py` (its text), `dialect.py` (its tree), `plan.py` (what analysis gives), `analysis.py` (what
  analysis knows), `planner.py` (which kind of statement it is: the way in);
* queries: `query.py` (names become tables), `table_files.py` (tables become files), `translation.py` (expressions), and
  below it `function_calls.py`, `datetime_comparisons.py`, `macro_calls.py`; the tables of functions: `functions.py`,
  `datetime_functions.py`, `builtin_names.py`; `column_types.py`; `engine.py` (DuckDB itself);
* changes: `dml.py`; `ddl.py` and `ddl_*.py`, `table_definition.py`; `show.py` shows what is there;
  `catalog_calls.py` does what a coordinator that died had asked the catalog service for.
"""
