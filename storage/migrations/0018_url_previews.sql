-- What pages say of themselves, in JSON, until it is asked for anew; hash names the address, as
-- that may be longer than an index takes. body is '' where nothing could be had.
CREATE TABLE url_previews (
    hash    TEXT PRIMARY KEY,
    body    TEXT NOT NULL,
    expires BIGINT NOT NULL
); -- postgres
) WITHOUT ROWID; -- sqlite
CREATE INDEX url_previews_expires ON url_previews (expires);
