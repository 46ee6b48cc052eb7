USE flights_stage;
DROP TABLE IF EXISTS flights_raw.weather;
CREATE EXTERNAL TABLE flights_raw.weather
  (origin STRING, `year` INT, `month` INT, `day` INT, `hour` INT, temp DOUBLE, dewp DOUBLE, humid DOUBLE,
   wind_dir DOUBLE, wind_speed DOUBLE, wind_gust DOUBLE, precip DOUBLE, pressure DOUBLE, visib DOUBLE, time_hour STRING)
ROW FORMAT DELIMITED FIELDS TERMINATED BY ','
STORED AS TEXTFILE LOCATION '${var:landing}/weather'
TBLPROPERTIES ('skip.header.line.count'='1');

CREATE TABLE IF NOT EXISTS weather
  (origin STRING, time_hour STRING, wind_speed DOUBLE, precip DOUBLE, visib DOUBLE) STORED AS PARQUET;
SET SYNC_DDL=1;
INSERT OVERWRITE weather SELECT origin, time_hour, wind_speed, precip, visib FROM flights_raw.weather;
