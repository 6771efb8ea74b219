-- Since when a user is to a room what they are: pos moves with their name there, too. 0 while it has no position yet.
ALTER TABLE memberships ADD COLUMN since BIGINT NOT NULL DEFAULT 0;
UPDATE memberships SET since = pos;
