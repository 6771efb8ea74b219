-- What can be searched for: the words of messages, names and topics, by the event that has
-- them and where in its content they stand. ts is the event's.
CREATE TABLE search (
    event_nid INTEGER PRIMARY KEY, -- sqlite
    event_nid BIGINT PRIMARY KEY, -- postgres
    room_nid  BIGINT NOT NULL,
    key       TEXT NOT NULL,
    words     TSVECTOR NOT NULL, -- postgres
    ts        BIGINT NOT NULL
);
CREATE INDEX search_room ON search (room_nid, ts);
CREATE INDEX search_words ON search USING GIN (words); -- postgres
CREATE VIRTUAL TABLE search_words USING fts5 (words, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 0'); -- sqlite

-- How far in the log the words were taken, and events that came to the timeline as history.
CREATE TABLE search_cursor (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    pos BIGINT NOT NULL
);
INSERT INTO search_cursor (one, pos) VALUES (1, 0);
CREATE TABLE search_pending (
    event_nid INTEGER PRIMARY KEY -- sqlite
    event_nid BIGINT PRIMARY KEY -- postgres
);
INSERT INTO search_pending (event_nid) SELECT event_nid FROM timeline WHERE ord < 0;
