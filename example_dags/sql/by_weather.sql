USE flights_stage;
DROP TABLE IF EXISTS by_weather;
CREATE TABLE by_weather STORED AS PARQUET AS
SELECT
  CASE WHEN w.visib < 3 THEN 'poor; under 3 miles' WHEN w.visib < 10 THEN 'fair' ELSE 'clear' END AS visibility,
  count(*) AS flights, avg(f.dep_delay) AS mean_delay
FROM clean_flights f
JOIN weather w ON w.origin = f.origin AND w.time_hour = f.time_hour
GROUP BY 1;
