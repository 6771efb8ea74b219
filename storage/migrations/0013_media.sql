-- Files of our users and copies of those of other servers. hash names the content, '' where it
-- has not been uploaded yet, and may be until expires. used is when it was last asked for, to
-- the day. user_id is '' for a copy.
CREATE TABLE media (
    origin      TEXT NOT NULL,
    media_id    TEXT NOT NULL,
    user_id     TEXT NOT NULL,
    hash        TEXT NOT NULL,
    size        BIGINT NOT NULL,
    type        TEXT NOT NULL,
    name        TEXT NOT NULL,
    created     BIGINT NOT NULL,
    used        BIGINT NOT NULL,
    expires     BIGINT NOT NULL,
    quarantined BOOLEAN NOT NULL,
    PRIMARY KEY (origin, media_id)
);
CREATE INDEX media_hash ON media (hash) WHERE hash <> '';
CREATE INDEX media_user ON media (user_id, created) WHERE user_id <> '';
CREATE INDEX media_used ON media (used) WHERE user_id = '';

-- Thumbnails that were made of a content, each a content itself; method is 'crop' or 'scale'.
CREATE TABLE thumbnails (
    source   TEXT NOT NULL,
    width    BIGINT NOT NULL,
    height   BIGINT NOT NULL,
    method   TEXT NOT NULL,
    animated BOOLEAN NOT NULL,
    hash     TEXT NOT NULL,
    size     BIGINT NOT NULL,
    type     TEXT NOT NULL,
    PRIMARY KEY (source, width, height, method, animated)
); -- postgres
) WITHOUT ROWID; -- sqlite
CREATE INDEX thumbnails_hash ON thumbnails (hash);
