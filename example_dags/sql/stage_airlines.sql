SET MEM_LIMIT=1g;
USE flights_stage;
DROP TABLE IF EXISTS flights_raw.airlines;
CREATE EXTERNAL TABLE flights_raw.airlines (carrier STRING, name STRING)
ROW FORMAT DELIMITED FIELDS TERMINATED BY ','
STORED AS TEXTFILE LOCATION '${var:landing}/airlines'
TBLPROPERTIES ('skip.header.line.count'='1');

CREATE TABLE IF NOT EXISTS airlines (carrier STRING, name STRING) STORED AS PARQUET;
-- The last statement tells all coordinators: clean.sql reads this table on another one.
SET SYNC_DDL=1;
INSERT OVERWRITE airlines SELECT carrier, name FROM flights_raw.airlines;
