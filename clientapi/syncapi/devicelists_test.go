package syncapi

import (
	"net/http"
	"strings"
	"testing"

	"parley/internal/id"
	"parley/internal/stream"
)

// TestDeviceListsAreOfThoseWhoCameAndWent has rooms change in every way between two answers: told are those
// with whom a room came to be shared, and those with whom none is any more, by what the hub knows
// and by the database alone.
func TestDeviceListsAreOfThoseWhoCameAndWent(t *testing.T) {
	each(t, func(n *node) {
		unopened := stream.NewHub(stream.HubOptions{Rooms: n.joinedRooms})
		n.Cleanup(unopened.Close)
		blank := serve(n, n.newAPI(unopened))
		one, two := n.create(alice, nil), n.create(alice, nil)
		for _, c := range []struct {
			what          string
			before, does  func()
			changed, left string
		}{
			{"nothing", func() { n.join(bob, one) }, func() { n.say(alice, one, "hi") }, "", ""},
			{"another name", func() { n.join(bob, one) }, func() {
				n.ok(n.rooms.UpdateProfile(n.Context(), alice, "Alice", ""))
				n.ok(n.rooms.UpdateProfile(n.Context(), bob, "Bob", ""))
			}, "", ""},
			{"a first room", func() {}, func() { n.join(bob, one) }, "@alice:x.org @bob:x.org", ""},
			{"a second room", func() { n.join(bob, one) }, func() { n.join(bob, two) }, "", ""},
			{"one of two left", func() { n.join(bob, one, two) }, func() { n.leave(bob, one) }, "", ""},
			{"all left", func() { n.join(bob, one, two) }, func() { n.leave(bob, one); n.leave(bob, two) }, "", "@alice:x.org"},
			{"both left", func() { n.join(bob, one) }, func() { n.leave(bob, one); n.leave(alice, one) }, "", "@alice:x.org"},
			{"away and back", func() { n.join(bob, one) }, func() { n.leave(bob, one); n.join(bob, one) }, "@alice:x.org @bob:x.org", ""},
			{"a visit", func() {}, func() { n.join(bob, one); n.leave(bob, one) }, "", ""},
			{"kicked and invited", func() { n.join(bob, one) }, func() { n.kick(alice, bob, one); n.invite(alice, bob, one) }, "", "@alice:x.org"},
			{"another room", func() { n.join(bob, one) }, func() { n.join(bob, two); n.leave(bob, one) }, "@alice:x.org @bob:x.org", ""},
		} {
			c.before()
			since := n.sync(bob).next()
			c.does()
			for name, h := range map[string]http.Handler{"the hub": n.http, "the database": blank} {
				a := ask(n, h, string(bob), "since", since)
				for list, want := range map[string]string{"changed": c.changed, "left": c.left} {
					var got []string
					for _, u := range a.Get("device_lists." + list).Array() {
						got = append(got, u.Str)
					}
					equal(n, c.what+", by "+name+": "+list, strings.Join(got, " "), want)
				}
			}
			for _, room := range []id.RoomID{one, two} {
				n.join(alice, room)
				n.join(bob, room)
				n.leave(bob, room)
			}
		}
	})
}
