USE flights_stage;
DROP TABLE IF EXISTS by_route;
CREATE TABLE by_route STORED AS PARQUET AS
SELECT origin, dest, dest_name, flights, mean_delay FROM (
  SELECT
    origin, dest, dest_name, count(*) AS flights, avg(arr_delay) AS mean_delay,
    row_number() OVER (PARTITION BY origin ORDER BY count(*) DESC, dest) AS nth
  FROM clean_flights
  GROUP BY origin, dest, dest_name
) ranked
WHERE nth <= 10;
