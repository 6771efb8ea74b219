// Package roomserver is the only writer of rooms: it authorises events, resolves state,
// and persists both. A room is a DAG of signed events; its current state is what the
// forward extremities resolve to, and is kept as the root of a state tree.
//
// Each public method that writes opens one transaction, locks the room's row first, and
// calls functions that take that transaction; what it acknowledges is durable and whole.
// Authorisation rules and event formats are those of gomatrixserverlib, by room version;
// its types stay inside this package and federation.
//
// It knows nothing of HTTP, accounts, or devices beyond the number that names a
// transaction ID's owner. What it needs of other servers is the interface Remote.
//
// spec: rooms/index.md, client-server-api/index.md#rooms, server-server-api.md#pdus
package roomserver
