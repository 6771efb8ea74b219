-- The other servers that have, or had, members in a room: joined is how many now. A server
-- hears of what happens there from the position since up to until, which is 0 while it has members.
CREATE TABLE room_servers (
    room_nid BIGINT NOT NULL,
    server   TEXT NOT NULL,
    joined   BIGINT NOT NULL,
    since    BIGINT NOT NULL,
    until    BIGINT NOT NULL,
    PRIMARY KEY (room_nid, server)
); -- postgres
) WITHOUT ROWID; -- sqlite
CREATE INDEX room_servers_server ON room_servers (server, room_nid);

-- How many other servers have members in the room.
ALTER TABLE rooms ADD COLUMN servers BIGINT NOT NULL DEFAULT 0;

-- The events of the log that it is for us to send to the other servers in their rooms.
CREATE TABLE outgoing (
    room_nid  BIGINT NOT NULL,
    pos       BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    PRIMARY KEY (room_nid, pos)
); -- postgres
) WITHOUT ROWID; -- sqlite
CREATE INDEX outgoing_pos ON outgoing (pos, room_nid, event_nid);

-- What waits for a server beside events, until it has it: messages to devices, whose content
-- is kept, and users whose devices it is to be told of.
CREATE TABLE server_queue (
    server  TEXT NOT NULL,
    pos     BIGINT NOT NULL,
    subject TEXT NOT NULL, -- a message's ID, or a user
    type    TEXT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (server, pos, subject)
); -- postgres
) WITHOUT ROWID; -- sqlite
CREATE INDEX server_queue_pos ON server_queue (pos, server);

-- When each device of our users last changed, or with '' for a device their cross-signing
-- keys, and at which position a device of the user had changed before. A device that is gone
-- keeps its row.
CREATE TABLE device_changes (
    user_id   TEXT NOT NULL,
    device_id TEXT NOT NULL,
    pos       BIGINT NOT NULL,
    previous  BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id)
); -- postgres
) WITHOUT ROWID; -- sqlite
CREATE INDEX device_changes_pos ON device_changes (pos);

-- Those who deliver what the log shows: up to which position all has been seen to, and which
-- process does it; beat moves while that process lives.
CREATE TABLE consumers (
    consumer TEXT PRIMARY KEY,
    pos      BIGINT NOT NULL,
    holder   TEXT NOT NULL,
    beat     BIGINT NOT NULL
); -- postgres
) WITHOUT ROWID; -- sqlite

-- The destinations that have not got all that the consumer has seen to: up to where they have
-- it, how often in a row they could not be reached, and when they are to be tried again.
CREATE TABLE deliveries (
    consumer    TEXT NOT NULL,
    destination TEXT NOT NULL,
    pos         BIGINT NOT NULL,
    failures    BIGINT NOT NULL,
    retry_at    BIGINT NOT NULL,
    PRIMARY KEY (consumer, destination)
); -- postgres
) WITHOUT ROWID; -- sqlite
