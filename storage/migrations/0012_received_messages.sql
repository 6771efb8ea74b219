-- The messages to devices that lately came from other servers, so that each is taken in once.
CREATE TABLE received_messages (
    sender     TEXT NOT NULL,
    message_id TEXT NOT NULL,
    ts         BIGINT NOT NULL,
    PRIMARY KEY (sender, message_id)
); -- postgres
) WITHOUT ROWID; -- sqlite
CREATE INDEX received_messages_ts ON received_messages (ts);
