-- The large table. No SYNC_DDL: its dependents stick to this coordinator, which knows what it did itself.
SET MEM_LIMIT=4g;
SET COMPRESSION_CODEC=snappy;
USE flights_stage;

DROP TABLE IF EXISTS flights_raw.flights;
CREATE EXTERNAL TABLE flights_raw.flights
  (`year` INT, `month` INT, `day` INT, dep_time INT, sched_dep_time INT, dep_delay INT, arr_time INT,
   sched_arr_time INT, arr_delay INT, carrier STRING, flight INT, tailnum STRING, origin STRING, dest STRING,
   air_time INT, distance INT, `hour` INT, `minute` INT, time_hour STRING)
ROW FORMAT DELIMITED FIELDS TERMINATED BY ','
STORED AS TEXTFILE LOCATION '${var:landing}/flights'
TBLPROPERTIES ('skip.header.line.count'='1');

DROP TABLE IF EXISTS flights;
CREATE TABLE flights LIKE flights_raw.flights STORED AS PARQUET;
INSERT INTO flights /* +NOSHUFFLE */ SELECT * FROM flights_raw.flights;
COMPUTE STATS flights;
