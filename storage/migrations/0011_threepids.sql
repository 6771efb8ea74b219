-- Addresses and numbers by which accounts are known. An address is in its canonical form.
CREATE TABLE threepids (
    medium    TEXT NOT NULL,
    address   TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    validated BIGINT NOT NULL,
    added     BIGINT NOT NULL,
    PRIMARY KEY (medium, address)
); -- postgres
) WITHOUT ROWID; -- sqlite
CREATE INDEX threepids_user ON threepids (user_id);

-- Attempts to show that an address is one's own. token is what was sent there, as SHA-256;
-- validated is when it came back, 0 before that.
CREATE TABLE threepid_sessions (
    sid       TEXT PRIMARY KEY,
    medium    TEXT NOT NULL,
    address   TEXT NOT NULL,
    secret    TEXT NOT NULL,
    attempt   BIGINT NOT NULL,
    token     BLOB NOT NULL, -- sqlite
    token     BYTEA NOT NULL, -- postgres
    next_link TEXT NOT NULL,
    purpose   TEXT NOT NULL,
    validated BIGINT NOT NULL DEFAULT 0,
    expires   BIGINT NOT NULL
); -- postgres
) WITHOUT ROWID; -- sqlite
CREATE INDEX threepid_sessions_address ON threepid_sessions (address, secret);

-- Which identity servers were told, through us, of a user's address.
CREATE TABLE threepid_bindings (
    user_id   TEXT NOT NULL,
    medium    TEXT NOT NULL,
    address   TEXT NOT NULL,
    id_server TEXT NOT NULL,
    PRIMARY KEY (user_id, medium, address, id_server)
); -- postgres
) WITHOUT ROWID; -- sqlite
