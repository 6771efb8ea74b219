-- The threads that users subscribed to, and those that they unsubscribed from: those keep their
-- row, with the end of the log at that time in unsubscribed_at, as nothing from before then may
-- subscribe them again by itself. root is the event that the thread hangs on.
CREATE TABLE thread_subscriptions (
    user_id         TEXT NOT NULL,
    room_id         TEXT NOT NULL,
    root            TEXT NOT NULL,
    automatic       BOOLEAN NOT NULL,
    unsubscribed_at BIGINT NOT NULL,
    pos             BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_id, root)
); -- postgres
) WITHOUT ROWID; -- sqlite
CREATE INDEX thread_subscriptions_pos ON thread_subscriptions (user_id, pos);
