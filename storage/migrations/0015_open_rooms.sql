-- Whether anybody may join or read a room, so that its members may be found by anybody. NULL
-- where it was not looked up since the column is there.
ALTER TABLE rooms ADD COLUMN open BOOLEAN;
CREATE INDEX rooms_open ON rooms (nid) WHERE open OR published;
