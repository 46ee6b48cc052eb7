-- Reads the three aggregates, made on the coordinator this task sticks to, and publishes: from here on every
-- coordinator, and so every reader, sees the result.
USE flights_mart;
CREATE TABLE IF NOT EXISTS daily_report (topic STRING, name STRING, flights BIGINT, mean_delay DOUBLE) STORED AS PARQUET;
INSERT OVERWRITE daily_report
SELECT 'carrier', airline, flights, mean_delay FROM flights_stage.by_carrier WHERE place <= 5
UNION ALL
SELECT 'route', concat(origin, ' - ', dest_name), flights, mean_delay FROM flights_stage.by_route WHERE flights > 8000
UNION ALL
SELECT 'visibility', visibility, flights, mean_delay FROM flights_stage.by_weather;
SET SYNC_DDL=1;
REFRESH daily_report;
SELECT topic, name, flights, round(mean_delay, 1) AS mean_delay FROM daily_report ORDER BY topic, mean_delay;
