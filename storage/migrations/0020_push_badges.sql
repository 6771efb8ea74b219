-- Whether a pusher's gateway may have been told that something is unread, and not that nothing is any more.
ALTER TABLE pushers ADD COLUMN badge BOOLEAN NOT NULL DEFAULT TRUE;

-- Whoever has read since: it is to be told to their gateways.
CREATE INDEX receipts_log ON receipts (pos);
