-- Whether somebody asked for a user's devices when they could not be had: when they can, this is
-- told as a change.
ALTER TABLE remote_device_lists ADD COLUMN unanswered BOOLEAN NOT NULL DEFAULT FALSE;
