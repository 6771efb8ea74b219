-- Messages leave when their room keeps them no longer. kind is 0 for a state event, 1 for any other, and 2
-- for one that has left: of it there is only what holds the DAG together.
ALTER TABLE events ADD COLUMN kind BIGINT NOT NULL DEFAULT 1;
UPDATE events SET kind = 0 WHERE json LIKE '%"state_key":%';

-- What is left is found by its time, and what is to leave.
DROP INDEX events_ts;
CREATE INDEX events_ts ON events (room_nid, ts, kind) WHERE kind < 2;

-- How far the process that takes messages away has come: it has seen to the rooms up to room_nid, and
-- begins again at next_at. Others leave it alone until then, and where it does not go on, until the time until.
CREATE TABLE retention (
    one      BIGINT PRIMARY KEY CHECK (one = 1),
    room_nid BIGINT NOT NULL,
    next_at  BIGINT NOT NULL,
    holder   TEXT NOT NULL,
    until    BIGINT NOT NULL
);
INSERT INTO retention (one, room_nid, next_at, holder, until) VALUES (1, 0, 0, '', 0);
