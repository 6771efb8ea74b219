-- The position of the log at which a user had erased what they wrote: whoever was in a room by then has seen it.
ALTER TABLE users ADD COLUMN erased_pos BIGINT NOT NULL DEFAULT 0;
UPDATE users SET erased_pos = (SELECT pos FROM log) WHERE erased;
CREATE INDEX users_erased ON users (user_id) WHERE erased;
