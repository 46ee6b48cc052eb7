-- Reads what stage_flights made a moment ago, so it has to run where that ran: the operator's stick_to.
SET MEM_LIMIT=4g;
SET MT_DOP=2;
USE flights_stage;

DROP TABLE IF EXISTS clean_flights;
CREATE TABLE clean_flights (
  flown_on STRING, carrier STRING, airline STRING, origin STRING, dest STRING, dest_name STRING, tailnum STRING,
  built INT, dep_delay INT, arr_delay INT, distance INT, cancelled BOOLEAN, time_hour STRING
) STORED AS PARQUET;

INSERT INTO clean_flights /* +SHUFFLE */
SELECT -- +STRAIGHT_JOIN
  concat_ws('-', cast(f.`year` AS STRING), lpad(cast(f.`month` AS STRING), 2, '0'), lpad(cast(f.`day` AS STRING), 2, '0')),
  f.carrier, a.name, f.origin, f.dest, coalesce(p.name, f.dest), f.tailnum,
  t.built, f.dep_delay, f.arr_delay, f.distance, f.dep_time IS NULL, f.time_hour
FROM flights f
JOIN /* +BROADCAST */ airlines a ON a.carrier = f.carrier
LEFT JOIN /* +BROADCAST */ airports p ON p.faa = f.dest
LEFT JOIN planes t ON t.tailnum = f.tailnum;

COMPUTE STATS clean_flights;
SELECT count(*) AS flights, sum(cast(cancelled AS INT)) AS cancelled FROM clean_flights;
