-- The identity keys of devices, as they were uploaded, but for what others signed later.
CREATE TABLE device_keys (
    device_nid BIGINT PRIMARY KEY,
    json       TEXT NOT NULL
); -- postgres
) WITHOUT ROWID; -- sqlite

-- Keys that are given out once each, in the order of batch.
CREATE TABLE one_time_keys (
    device_nid BIGINT NOT NULL,
    algorithm  TEXT NOT NULL,
    batch      BIGINT NOT NULL,
    key_id     TEXT NOT NULL,
    json       TEXT NOT NULL,
    PRIMARY KEY (device_nid, algorithm, batch, key_id)
); -- postgres
) WITHOUT ROWID; -- sqlite

-- The key of each kind that is given out when there is no other left.
CREATE TABLE fallback_keys (
    device_nid BIGINT NOT NULL,
    algorithm  TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    json       TEXT NOT NULL,
    used       BOOLEAN NOT NULL,
    PRIMARY KEY (device_nid, algorithm)
); -- postgres
) WITHOUT ROWID; -- sqlite

-- Users' cross-signing keys. usage is 'master', 'self_signing' or 'user_signing'; public is
-- the key itself.
CREATE TABLE cross_signing_keys (
    user_id TEXT NOT NULL,
    usage   TEXT NOT NULL,
    public  TEXT NOT NULL,
    json    TEXT NOT NULL,
    PRIMARY KEY (user_id, usage)
); -- postgres
) WITHOUT ROWID; -- sqlite

-- Signatures that were made later, of a device's keys (key_id is the device's ID) or of a
-- cross-signing key (key_id is the key).
CREATE TABLE key_signatures (
    user_id    TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    signer     TEXT NOT NULL,
    signer_key TEXT NOT NULL,
    signature  TEXT NOT NULL,
    PRIMARY KEY (user_id, key_id, signer, signer_key)
); -- postgres
) WITHOUT ROWID; -- sqlite

-- When a user last signed the keys of another, which is for the signer alone to see.
CREATE TABLE signature_lists (
    signer  TEXT NOT NULL,
    user_id TEXT NOT NULL,
    pos     BIGINT NOT NULL,
    PRIMARY KEY (signer, user_id)
); -- postgres
) WITHOUT ROWID; -- sqlite

-- Messages that wait for a device.
CREATE TABLE to_device (
    device_nid BIGINT NOT NULL,
    pos        BIGINT NOT NULL,
    json       TEXT NOT NULL,
    PRIMARY KEY (device_nid, pos)
); -- postgres
) WITHOUT ROWID; -- sqlite

-- The requests with which a device lately sent such messages, so that the same request again
-- sends none.
CREATE TABLE to_device_txns (
    device_nid BIGINT NOT NULL,
    txn_id     TEXT NOT NULL,
    ts         BIGINT NOT NULL,
    PRIMARY KEY (device_nid, txn_id)
); -- postgres
) WITHOUT ROWID; -- sqlite

-- Backups of room keys. A deleted one keeps its row, so that its version is not given again.
CREATE TABLE key_backups (
    user_id   TEXT NOT NULL,
    version   BIGINT NOT NULL,
    algorithm TEXT NOT NULL,
    auth_data TEXT NOT NULL,
    etag      BIGINT NOT NULL,
    keys      BIGINT NOT NULL,
    deleted   BOOLEAN NOT NULL,
    PRIMARY KEY (user_id, version)
); -- postgres
) WITHOUT ROWID; -- sqlite

CREATE TABLE key_backup_keys (
    user_id     TEXT NOT NULL,
    version     BIGINT NOT NULL,
    room_id     TEXT NOT NULL,
    session_id  TEXT NOT NULL,
    first_index BIGINT NOT NULL,
    forwarded   BIGINT NOT NULL,
    verified    BOOLEAN NOT NULL,
    data        TEXT NOT NULL,
    PRIMARY KEY (user_id, version, room_id, session_id)
); -- postgres
) WITHOUT ROWID; -- sqlite
