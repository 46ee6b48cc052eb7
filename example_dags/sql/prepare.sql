-- The databases of the batch. SYNC_DDL: this script ends only when every coordinator knows them, since the
-- tasks after it start on all coordinators at once.
SET SYNC_DDL=1;
CREATE DATABASE IF NOT EXISTS flights_raw COMMENT 'files as they came; read once a day';
CREATE DATABASE IF NOT EXISTS flights_stage;
CREATE DATABASE IF NOT EXISTS flights_mart COMMENT 'what others read';
