-- The device of a user that nobody holds: its keys lie encrypted in data until a new device
-- of theirs takes over what was sent to it.
CREATE TABLE dehydrated_devices (
    user_id    TEXT PRIMARY KEY,
    device_nid BIGINT NOT NULL,
    data       TEXT NOT NULL
); -- postgres
) WITHOUT ROWID; -- sqlite
CREATE INDEX dehydrated_devices_device ON dehydrated_devices (device_nid);
