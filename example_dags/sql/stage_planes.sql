USE flights_stage;
DROP TABLE IF EXISTS flights_raw.planes;
CREATE EXTERNAL TABLE flights_raw.planes
  (tailnum STRING, `year` INT, `type` STRING, manufacturer STRING, model STRING, engines INT, seats INT,
   speed STRING, engine STRING)
ROW FORMAT DELIMITED FIELDS TERMINATED BY ','
STORED AS TEXTFILE LOCATION '${var:landing}/planes'
TBLPROPERTIES ('skip.header.line.count'='1');

CREATE TABLE IF NOT EXISTS planes (tailnum STRING, built INT, manufacturer STRING, seats INT) STORED AS PARQUET;
SET SYNC_DDL=1;
INSERT OVERWRITE planes
SELECT tailnum, `year`, regexp_replace(manufacturer, ' INDUSTRIE|;.*$', ''), seats  /* no ; ends here */
FROM flights_raw.planes;
