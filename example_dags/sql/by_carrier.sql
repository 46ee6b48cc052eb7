USE flights_stage;
DROP TABLE IF EXISTS by_carrier;
CREATE TABLE by_carrier STORED AS PARQUET AS
SELECT
  carrier, airline, count(*) AS flights, sum(cast(cancelled AS INT)) AS cancelled,
  avg(arr_delay) AS mean_delay,
  rank() OVER (ORDER BY avg(arr_delay)) AS place
FROM clean_flights
GROUP BY carrier, airline;
