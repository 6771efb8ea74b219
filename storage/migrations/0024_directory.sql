-- By what users are found: our own by their profiles, others by their names in rooms. What is not
-- a user's name any more may stay; whoever searches looks at the name itself.
CREATE TABLE directory (
    phrase  TEXT COLLATE "C" NOT NULL, -- postgres
    phrase  TEXT NOT NULL, -- sqlite
    user_id TEXT NOT NULL,
    PRIMARY KEY (phrase, user_id)
); -- postgres
) WITHOUT ROWID; -- sqlite

-- Users who are to be taken into the directory: those from before it was there.
CREATE TABLE directory_pending (
    user_id TEXT PRIMARY KEY
); -- postgres
) WITHOUT ROWID; -- sqlite
INSERT INTO directory_pending (user_id)
    SELECT user_id FROM users WHERE NOT deactivated
    UNION SELECT user_id FROM memberships WHERE membership = 'join' AND NOT local;
