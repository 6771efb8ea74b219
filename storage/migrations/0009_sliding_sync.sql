-- What a room is, as lists of rooms are filtered by it: the type that its create event gives it,
-- and whether it is encrypted. NULL where it was not looked up since the columns are there.
ALTER TABLE rooms ADD COLUMN room_type TEXT;
ALTER TABLE rooms ADD COLUMN encrypted BOOLEAN;

-- What the connections of sliding sync were told: the state from which the client's last known
-- answer went out, and the one that the answer made; see clientapi/syncapi/sliding. last is the
-- newest number that a state of the connection was given, used is in milliseconds since 1970.
CREATE TABLE sliding_connections (
    device_nid  BIGINT NOT NULL,
    conn_id     TEXT NOT NULL,
    last        BIGINT NOT NULL,
    base        BIGINT NOT NULL,
    base_state  BLOB NOT NULL, -- sqlite
    base_state  BYTEA NOT NULL, -- postgres
    next        BIGINT NOT NULL,
    next_state  BLOB NOT NULL, -- sqlite
    next_state  BYTEA NOT NULL, -- postgres
    used        BIGINT NOT NULL,
    PRIMARY KEY (device_nid, conn_id)
); -- postgres
) WITHOUT ROWID; -- sqlite
