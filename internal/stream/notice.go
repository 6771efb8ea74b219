package stream

import "parley/internal/id"

// Kind is what a notice is about.
type Kind uint8

// The kinds of change.
const (
	Event       Kind = iota + 1 // an event in Room's timeline, or a change of membership
	Receipt                     // a receipt in Room; a private one names its owner in Users, and is for them alone
	AccountData                 // account data, tags or push rules of Users
	ToDevice                    // a message to devices of Users
	DeviceList                  // the devices or keys of User changed
	Typing                      // who types in Room; the body says who
	Presence                    // the presence of User; the body says which
	KeyCounts                   // how many one-time keys devices of Users have left; has no position
	Device                      // what other servers see of a device of User changed
	Opened                      // nothing changed: the log was opened at Pos, and its notices follow from there
)

// Notice says that something changed.
type Notice struct {
	// Pos is the change's position in the log; 0 for typing, presence and counts of keys.
	Pos  id.Pos
	Kind Kind
	// Room is where it happened; all its local members are concerned. May be empty.
	Room id.RoomID
	// User is whom the change is about: the sender, or the owner of the devices.
	User id.UserID
	// Users are those concerned beside the room's members: those whose membership of Room an
	// event changed, the owner of account data.
	Users []id.UserID
	// Joined are those of Users who are members of Room from now on; the others are not.
	Joined []id.UserID
	// Away says that other servers are to hear of an event or a message.
	Away bool
	// Shared says, of a presence in the News of a user, that they are known to share a room with User.
	Shared bool
	// Body is for typing and presence.
	Body []byte
}
