-- The transaction that an application service was last sent: its number, what of the log it has, and its body
-- until the service has taken it.
CREATE TABLE appservice_transactions (
    service  TEXT PRIMARY KEY,
    number   BIGINT NOT NULL,
    from_pos BIGINT NOT NULL,
    pos      BIGINT NOT NULL,
    body     TEXT
); -- postgres
) WITHOUT ROWID; -- sqlite

-- The rooms that application services show in the directories of their networks.
CREATE TABLE appservice_rooms (
    service TEXT NOT NULL,
    network TEXT NOT NULL,
    room_id TEXT NOT NULL,
    PRIMARY KEY (service, network, room_id)
); -- postgres
) WITHOUT ROWID; -- sqlite

CREATE INDEX users_appservice ON users (appservice) WHERE appservice <> '';
CREATE INDEX to_device_log ON to_device (pos);
-- Who was invited or knocked: else SQLite would plan anew each query that has the membership as a parameter.
CREATE INDEX memberships_stripped ON memberships (pos) WHERE stripped IS NOT NULL;
