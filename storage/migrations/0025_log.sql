-- The log is read from a place on. An index over a part of the timeline had SQLite plan each reading of a
-- timeline anew, as the place might be outside of that part.
DROP INDEX timeline_log;
CREATE INDEX timeline_log ON timeline (ord, room_nid);
