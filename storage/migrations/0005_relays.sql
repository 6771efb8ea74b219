-- Events of other servers' users that this node brought into their rooms and passes on to the
-- servers there, as if they were its own: joins, leaves and knocks that it was handed.
CREATE TABLE relays (
    event_nid INTEGER PRIMARY KEY -- sqlite
    event_nid BIGINT PRIMARY KEY -- postgres
);
