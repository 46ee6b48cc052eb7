-- The databases of the batch. With SYNC_DDL the last statement ends only when every coordinator knows them all,
-- since the tasks after it start on all coordinators at once.
CREATE DATABASE IF NOT EXISTS flights_raw COMMENT 'files as they came; read once a day';
CREATE DATABASE IF NOT EXISTS flights_stage;
SET SYNC_DDL=1;
CREATE DATABASE IF NOT EXISTS flights_mart COMMENT 'what others read';
