-- for {{ dag.dag_id }}
SET MEM_LIMIT=2g;
SELECT ${var:x}, '{{ params.word }}';  -- the end; really
