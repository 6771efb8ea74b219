// Package stream carries notices: after a commit, and only then, it tells whoever waits
// that the log has grown, and where. Whoever is woken reads the database from its own
// cursor, so a lost notice costs latency and never correctness.
//
// It is not for data: only typing and presence, which live in memory alone, ride in a
// notice's body.
package stream

import "parley/internal/id"

// Kind is what a notice is about.
type Kind uint8

// The kinds of change.
const (
	Event       Kind = iota + 1 // an event in Room's timeline, or a change of membership
	Receipt                     // a receipt in Room; private ones for Users alone
	AccountData                 // account data, tags or push rules of Users
	ToDevice                    // a message to devices of Users
	DeviceList                  // the devices or keys of User changed
	Typing                      // who types in Room; the body says who
	Presence                    // the presence of User; the body says which
)

// Notice says that something changed.
type Notice struct {
	// Pos is the change's position in the log; 0 for typing and presence.
	Pos  id.Pos
	Kind Kind
	// Room is where it happened; all its local members are concerned. May be empty.
	Room id.RoomID
	// User is whom the change is about: the sender, or the owner of the devices.
	User id.UserID
	// Users are those concerned beside the room's members: somebody invited or removed, the
	// owner of account data.
	Users []id.UserID
	// Body is for typing and presence.
	Body []byte
}
