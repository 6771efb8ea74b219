-- The users of other servers whose devices we keep: as of the change stream_id of theirs, 0 where
-- we don't know which that is, and of the position pos of our log. stale says that we may have
-- missed a change since, so that they are to be asked for anew; generation moves with every
-- change that we learn of.
CREATE TABLE remote_device_lists (
    user_id    TEXT PRIMARY KEY,
    stream_id  BIGINT NOT NULL,
    pos        BIGINT NOT NULL,
    stale      BOOLEAN NOT NULL,
    generation BIGINT NOT NULL
); -- postgres
) WITHOUT ROWID; -- sqlite
CREATE INDEX remote_device_lists_stale ON remote_device_lists (user_id) WHERE stale;

-- Their devices. json is the identity keys, '' for a device that has none.
CREATE TABLE remote_devices (
    user_id      TEXT NOT NULL,
    device_id    TEXT NOT NULL,
    display_name TEXT NOT NULL,
    json         TEXT NOT NULL,
    PRIMARY KEY (user_id, device_id)
); -- postgres
) WITHOUT ROWID; -- sqlite
