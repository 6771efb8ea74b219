package federation

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// outage: one server is stopped for 500 events, and comes back.
func outage(t *testing.T, host, guest *harness.Server) {
	m := meeting{host, guest, 11}
	alice, bob := host.Register(t, "alice"), guest.Register(t, "bob")
	room := alice.NewRoom(m.room("public_chat"))
	join(t, bob, room, host)
	atBob := bob.CaughtUp()
	atBob.UntilEvent(room, alice.Say(room, "before"))

	guest.Stop()
	for i := range 499 {
		alice.Say(room, fmt.Sprint("missed ", i))
	}
	alice.SetState(room, event.StateTopic, "", map[string]any{"topic": "missed"})
	guest.Run()
	// A server that is heard of is tried again at once, however long it was away.
	atAlice := alice.CaughtUp()
	atAlice.UntilEvent(room, bob.Say(room, "back again"))
	atBob.UntilEvent(room, alice.Say(room, "after"))
	sameState(t, room, alice, bob)
	sameHistory(t, room, alice, bob)
}

// parting is what happens in a room of one version while its servers are cut off from each other, and what must have
// become of it when they have found together again.
type parting struct {
	version  int
	apart    func()
	together func(*testing.T)
}

// part cuts all servers off from each other, once for all that is to happen meanwhile.
func part(t *testing.T, servers []*harness.Server, partings map[string][]parting) {
	for _, s := range servers {
		s.Link.Cut()
	}
	for _, list := range partings {
		for _, p := range list {
			p.apart()
		}
	}
	for _, s := range servers {
		s.Link.Mend()
	}
	for name, list := range partings {
		for _, p := range list {
			t.Run(fmt.Sprintf("%s/v%d", name, p.version), func(t *testing.T) {
				t.Parallel()
				p.together(t)
			})
		}
	}
}

// split: an admin on each server changes topic, name and power levels, and all find to one state.
func split(t *testing.T, servers ...*harness.Server) (partings []parting) {
	for _, version := range versions {
		partings = append(partings, splitRoom(t, version, servers...))
	}
	return partings
}

func splitRoom(t *testing.T, version int, servers ...*harness.Server) parting {
	host := servers[0]
	users := []*harness.User{host.Register(t, "admin0")}
	for i, s := range servers[1:] {
		users = append(users, s.Register(t, fmt.Sprint("admin", i+1)))
	}
	m := meeting{host: host, version: version}
	room := users[0].NewRoom(m.room("public_chat"))
	levels := map[string]any{}
	for _, u := range users[1:] {
		join(t, u, room, host)
		levels[string(u.UserID)] = 100
	}
	setLevels(users[0], room, levels)
	sameState(t, room, users...)

	apart := func() {
		for i, u := range users {
			for j := range 3 {
				u.Say(room, fmt.Sprintf("alone %d %d", i, j))
			}
			more := maps.Clone(levels)
			more[fmt.Sprintf("@friend%d:%s", i, u.Server.Name)] = 10 + i
			setLevels(u, room, more)
			u.SetState(room, event.StateTopic, "", map[string]any{"topic": fmt.Sprint("of server ", i)})
			if i > 0 {
				u.SetState(room, event.StateRoomName, "", map[string]any{"name": fmt.Sprint("name ", i)})
			}
			u.Say(room, fmt.Sprint("still alone ", i))
		}
	}
	together := func(t *testing.T) {
		users := slices.Clone(users)
		for i := range users {
			users[i] = users[i].In(t)
		}
		var last []id.EventID
		for _, u := range users {
			last = append(last, u.Say(room, "together again"))
		}
		for _, u := range users {
			for _, target := range last {
				awaitEvent(t, u, room, target)
			}
		}
		state := sameState(t, room, users...)
		sameHistory(t, room, users...)
		topic := harness.FindState(state, event.StateTopic, "")
		if topic == nil || topic.Content.Raw["topic"] == "" {
			t.Errorf("no topic came out of the split: %v", topic)
		}
		// And it goes on.
		for _, u := range users {
			said := u.Say(room, "and so on")
			for _, other := range users {
				awaitEvent(t, other, room, said)
			}
		}
		sameState(t, room, users...)
	}
	return parting{version, apart, together}
}

// setLevels gives some users power levels, beside those that have theirs.
func setLevels(u *harness.User, room id.RoomID, levels map[string]any) {
	content := u.StateContent(room, event.StatePowerLevels, "")
	all, _ := content["users"].(map[string]any)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, levels)
	content["users"] = all
	u.SetState(room, event.StatePowerLevels, "", content)
}

// awaitEvent waits until a user's server shows an event.
func awaitEvent(t *testing.T, u *harness.User, room id.RoomID, target id.EventID) {
	t.Helper()
	await(t, fmt.Sprintf("%s reads %s", u.UserID, target), func() (bool, string) {
		if _, err := u.GetEvent(t.Context(), room, target); err != nil {
			return false, err.Error()
		}
		return true, ""
	})
}

// demotion: while the servers are apart, one side takes the rights of the other's admin, who changes the topic meanwhile.
// The change never happened, on both sides.
func demotion(t *testing.T, host, guest *harness.Server) (partings []parting) {
	for _, version := range versions {
		m := meeting{host, guest, version}
		alice, bob := host.Register(t, "alice"), guest.Register(t, "bob")
		req := m.room("public_chat")
		req.Topic = "the first topic"
		room := alice.NewRoom(req)
		join(t, bob, room, host)
		level := func(level int) { setLevels(alice, room, map[string]any{string(bob.UserID): level}) }
		level(60)
		sameState(t, room, alice, bob)

		apart := func() {
			level(0)
			bob.SetState(room, event.StateTopic, "", map[string]any{"topic": "bob's topic"})
		}
		together := func(t *testing.T) {
			alice, bob := alice.In(t), bob.In(t)
			fromAlice, fromBob := alice.Say(room, "hello again"), bob.Say(room, "hello you")
			awaitEvent(t, bob, room, fromAlice)
			awaitEvent(t, alice, room, fromBob)
			state := sameState(t, room, alice, bob)
			if topic := harness.FindState(state, event.StateTopic, ""); topic == nil || topic.Content.Raw["topic"] != "the first topic" {
				t.Errorf("the topic is %v; want the first", topic)
			}
			_, err := bob.SendStateEvent(t.Context(), room, event.StateTopic, "", map[string]any{"topic": "again"})
			harness.WantError(t, err, 403, "M_FORBIDDEN")
		}
		partings = append(partings, parting{version, apart, together})
	}
	return partings
}
