USE flights_stage;
DROP TABLE IF EXISTS flights_raw.airports;
CREATE EXTERNAL TABLE flights_raw.airports
  (faa STRING, name STRING, lat DOUBLE, lon DOUBLE, alt INT, tz INT, dst STRING, tzone STRING)
ROW FORMAT DELIMITED FIELDS TERMINATED BY ','
STORED AS TEXTFILE LOCATION '${var:landing}/airports'
TBLPROPERTIES ('skip.header.line.count'='1');

CREATE TABLE IF NOT EXISTS airports (faa STRING, name STRING, lat DOUBLE, lon DOUBLE) STORED AS PARQUET;
SET SYNC_DDL=1;
INSERT OVERWRITE airports SELECT faa, name, lat, lon FROM flights_raw.airports;
