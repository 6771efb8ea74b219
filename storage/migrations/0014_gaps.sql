-- Where timelines have gaps: the events that follow events that we don't have.
CREATE INDEX missing_events_wanted_by ON missing_events (wanted_by);
