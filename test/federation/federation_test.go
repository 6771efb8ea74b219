// Package federation holds black-box tests of servers that share rooms: real processes on both databases, TLS on
// loopback, mautrix-go as the client of each side. The stories are told with two Parleys, with three, and with a Parley
// and a Synapse, the rooms being made on the one side and on the other. They use nothing but the client-server API:
// what the servers say to each other shows in what their users see.
//
// spec: server-server-api.md
package federation

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// meeting is where a story happens: rooms of one version are made on the host, and the guest's users come to them.
type meeting struct {
	host, guest *harness.Server
	version     int
}

// versions are the room versions that the stories are told in: the oldest that is still common, the one that most rooms
// have, and the last two.
var versions = []int{6, 10, 11, 12}

// TestTwo has two Parleys.
func TestTwo(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		network := harness.NewNetwork(t)
		host, guest := network.Parley(t, db, ""), network.Parley(t, db.Another(t), "")
		t.Run("stories", func(t *testing.T) {
			tell(t, host, guest)
			t.Run("files", func(t *testing.T) {
				t.Parallel()
				files(t, host, guest)
			})
		})
		t.Run("apart", func(t *testing.T) {
			part(t, []*harness.Server{host, guest}, map[string][]parting{"demotion": demotion(t, host, guest)})
		})
		t.Run("outage", func(t *testing.T) { outage(t, host, guest) })
	})
}

// TestThree has three, of which none hears the others for a while.
func TestThree(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		network := harness.NewNetwork(t)
		servers := []*harness.Server{network.Parley(t, db, ""), network.Parley(t, db.Another(t), ""), network.Parley(t, db.Another(t), "")}
		t.Run("chat", func(t *testing.T) { roundTable(t, servers...) })
		t.Run("apart", func(t *testing.T) { part(t, servers, map[string][]parting{"split": split(t, servers...)}) })
	})
}

// TestSynapse has a Parley and a Synapse, each of them host and guest.
func TestSynapse(t *testing.T) {
	network := harness.NewNetwork(t)
	synapse := network.Synapse(t)
	parley := network.Parley(t, harness.Database{Kind: "sqlite"}, "")
	servers := []*harness.Server{parley, synapse}
	t.Run("stories", func(t *testing.T) {
		t.Run("guest", func(t *testing.T) {
			t.Parallel()
			tell(t, parley, synapse)
		})
		t.Run("host", func(t *testing.T) {
			t.Parallel()
			tell(t, synapse, parley)
		})
	})
	t.Run("apart", func(t *testing.T) {
		part(t, servers, map[string][]parting{
			"guest split": split(t, parley, synapse), "guest demotion": demotion(t, parley, synapse),
			"host split": split(t, synapse, parley), "host demotion": demotion(t, synapse, parley),
		})
	})
	t.Run("outage", func(t *testing.T) {
		t.Run("guest", func(t *testing.T) { outage(t, parley, synapse) })
		t.Run("host", func(t *testing.T) { outage(t, synapse, parley) })
	})
}

func tell(t *testing.T, host, guest *harness.Server) {
	stories := []struct {
		name  string
		since int // the first room version that has it
		tell  func(*testing.T, meeting)
	}{
		{"chat", 1, chat},
		{"invite", 1, invite},
		{"alias", 1, alias},
		{"kickAndBan", 1, kickAndBan},
		{"visibility", 1, visibility},
		{"redaction", 1, redaction},
		{"ephemeral", 1, ephemeral},
		{"knock", 7, knock},
		{"restricted", 8, restricted},
	}
	for _, version := range versions {
		t.Run(fmt.Sprint("v", version), func(t *testing.T) {
			t.Parallel()
			for _, story := range stories {
				if story.since <= version {
					t.Run(story.name, func(t *testing.T) {
						t.Parallel()
						story.tell(t, meeting{host, guest, version})
					})
				}
			}
		})
	}
}

// room is a request for a room of the meeting's version.
func (m meeting) room(preset string) *mautrix.ReqCreateRoom {
	return &mautrix.ReqCreateRoom{Preset: preset, RoomVersion: id.RoomVersion(fmt.Sprint(m.version))}
}

// with adds an event to the state that a room is made with.
func with(req *mautrix.ReqCreateRoom, kind event.Type, content map[string]any) *mautrix.ReqCreateRoom {
	req.InitialState = append(req.InitialState, &event.Event{Type: kind, Content: event.Content{Raw: content}})
	return req
}

// join joins a room that somebody on another server is in.
func join(t *testing.T, u *harness.User, room id.RoomID, via *harness.Server) {
	t.Helper()
	if _, err := u.JoinRoom(t.Context(), string(room), &mautrix.ReqJoinRoom{Via: []string{via.Name}}); err != nil {
		t.Fatalf("%s joins %s via %s: %v", u.UserID, room, via.Name, err)
	}
}

// seesMember waits until the user's server has the membership of another.
func seesMember(t *testing.T, u *harness.User, room id.RoomID, other id.UserID, want event.Membership) {
	t.Helper()
	await(t, fmt.Sprintf("%s sees that %s is %s", u.UserID, other, want), func() (bool, string) {
		var content event.MemberEventContent
		if err := u.StateEvent(t.Context(), room, event.StateMember, string(other), &content); err != nil {
			return false, err.Error()
		}
		return content.Membership == want, string(content.Membership)
	})
}

// awaitTimeout is there so that what never happens fails the test with a message.
const awaitTimeout = 90 * time.Second

// await asks until something is so; ok says how it is instead.
func await(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(awaitTimeout)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		done, instead := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s; instead: %s", what, instead)
		}
		<-tick.C
	}
}

// sameState waits until the room has one state on all of the users' servers, and returns it.
func sameState(t *testing.T, room id.RoomID, users ...*harness.User) []*event.Event {
	t.Helper()
	var first []*event.Event
	await(t, "the same state of "+string(room)+" everywhere", func() (bool, string) {
		for i, u := range users {
			state, err := u.StateAsArray(t.Context(), room)
			if err != nil {
				return false, err.Error()
			}
			if i == 0 {
				first = state
			} else if a, b := keys(first), keys(state); !maps.Equal(a, b) {
				return false, difference(users[0].UserID, u.UserID, a, b)
			}
		}
		return true, ""
	})
	return first
}

// keys are the state's events by type and state key.
func keys(state []*event.Event) map[string]string {
	m := make(map[string]string, len(state))
	for _, evt := range state {
		m[evt.Type.Type+" "+evt.GetStateKey()] = evt.ID.String()
	}
	return m
}

// sameHistory waits until the users see the same events of the room, all of them, each sender's in one order.
func sameHistory(t *testing.T, room id.RoomID, users ...*harness.User) {
	t.Helper()
	await(t, "the same events of "+string(room)+" everywhere", func() (bool, string) {
		var first []*event.Event
		for i, u := range users {
			events := u.In(t).Page(room, "", mautrix.DirectionBackward, 100)
			slices.Reverse(events)
			if i == 0 {
				first = events
				continue
			}
			if a, b := bySender(first), bySender(events); !maps.Equal(a, b) {
				return false, difference(users[0].UserID, u.UserID, a, b)
			}
		}
		return true, ""
	})
}

// bySender gives each event its place among those of its sender.
func bySender(events []*event.Event) map[string]string {
	places := make(map[string]string, len(events))
	counts := map[id.UserID]int{}
	for _, evt := range events {
		counts[evt.Sender]++
		places[fmt.Sprintf("%s #%d", evt.Sender, counts[evt.Sender])] = evt.ID.String() + " " + evt.Type.Type
	}
	return places
}

// difference says what differs, in a few lines.
func difference(a, b id.UserID, as, bs map[string]string) string {
	const most = 12
	all := maps.Clone(as)
	maps.Copy(all, bs)
	text := fmt.Sprintf("%s has %d, %s has %d", a, len(as), b, len(bs))
	lines := 0
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if as[key] != bs[key] {
			if lines++; lines > most {
				return text + "\n…"
			}
			text += fmt.Sprintf("\n%s: %q and %q", key, as[key], bs[key])
		}
	}
	return text
}
