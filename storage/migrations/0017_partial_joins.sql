-- Rooms that we were let into without hearing who is in them, until we have. partial_join is the join in
-- such a room, and 0 in others; complete_since is the position from which on all is known again.
ALTER TABLE rooms ADD COLUMN partial_join BIGINT NOT NULL DEFAULT 0;
ALTER TABLE rooms ADD COLUMN complete_since BIGINT NOT NULL DEFAULT 0;
CREATE INDEX rooms_partial ON rooms (nid) WHERE partial_join <> 0;

-- The servers that are said to be in such a room: each counts for one member in room_servers. Those of lower
-- rank are the first to be asked.
CREATE TABLE presumed_servers (
    room_nid BIGINT NOT NULL,
    server   TEXT NOT NULL,
    rank     BIGINT NOT NULL,
    PRIMARY KEY (room_nid, server)
); -- postgres
) WITHOUT ROWID; -- sqlite

-- Events that were not accepted by what was known in such a room: they are judged again.
CREATE TABLE doubtful_events (
    room_nid  BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    PRIMARY KEY (room_nid, event_nid)
); -- postgres
) WITHOUT ROWID; -- sqlite
