-- Keys with which other servers sign. public is unpadded base64. A key that its server still
-- signs with has expired = 0 and counts until valid_until; one that it no longer signs with was
-- good for events until expired.
CREATE TABLE server_keys (
    server      TEXT NOT NULL,
    key_id      TEXT NOT NULL,
    public      TEXT NOT NULL,
    valid_until BIGINT NOT NULL,
    expired     BIGINT NOT NULL,
    PRIMARY KEY (server, key_id)
); -- postgres
) WITHOUT ROWID; -- sqlite

-- The newest list of its keys that a server signed, for those who ask us for it.
CREATE TABLE server_key_lists (
    server      TEXT NOT NULL PRIMARY KEY,
    fetched     BIGINT NOT NULL,
    valid_until BIGINT NOT NULL,
    json        TEXT NOT NULL
); -- postgres
) WITHOUT ROWID; -- sqlite
