package client

import (
	"slices"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestVisibility is the chapter on who may read what of a room's history.
// spec: client-server-api/modules/history_visibility.md#server-behaviour
func TestVisibility(t *testing.T) {
	harness.Stories(t, newJoiner, visibilityChanges, worldReadable, afterLeaving)
}

// newJoiner reads, as one who was invited and joined later, what was said before the invite, between invite and join,
// and after the join, under each visibility.
func newJoiner(t *testing.T, srv *harness.Server) {
	alice := srv.Register(t, "alice")
	for _, c := range []struct {
		visibility string
		want       []string
	}{
		{"world_readable", []string{"before", "invited", "joined"}},
		{"shared", []string{"before", "invited", "joined"}},
		{"invited", []string{"invited", "joined"}},
		{"joined", []string{"joined"}},
	} {
		t.Run(c.visibility, func(t *testing.T) {
			alice, bob := alice.In(t), srv.Register(t, "bob")
			room := alice.NewRoom(withVisibility(c.visibility))
			before := alice.Say(room, "before")
			alice.Invite(room, bob)
			between := alice.Say(room, "invited")
			bob.Join(room)
			alice.Say(room, "joined")

			if got := harness.Bodies(bob.Page(room, "", mautrix.DirectionForward, 50)); !slices.Equal(got, c.want) {
				t.Errorf("/messages forwards shows %q; want %q", got, c.want)
			}
			if got := harness.Bodies(bob.Page(room, "", mautrix.DirectionBackward, 2)); !slices.Equal(got, reversed(c.want)) {
				t.Errorf("/messages backwards shows %q; want %q", got, reversed(c.want))
			}
			if got := harness.Bodies(harness.Timeline(bob.Stream().Next(), room)); !slices.Equal(got, c.want) {
				t.Errorf("/sync shows %q; want %q", got, c.want)
			}
			for body, said := range map[string]id.EventID{"before": before, "invited": between} {
				_, err := bob.GetEvent(t.Context(), room, said)
				_, errContext := bob.Context(t.Context(), room, said, nil, 0)
				if slices.Contains(c.want, body) {
					if err != nil || errContext != nil {
						t.Errorf("%q can't be read: %v, %v", body, err, errContext)
					}
				} else {
					harness.WantError(t, err, 404, "M_NOT_FOUND")
					if errContext == nil {
						t.Errorf("/context shows %q", body)
					}
				}
			}
		})
	}
}

func withVisibility(visibility string) *mautrix.ReqCreateRoom {
	return &mautrix.ReqCreateRoom{Preset: "private_chat", InitialState: []*event.Event{
		{Type: event.StateHistoryVisibility, Content: event.Content{Raw: map[string]any{"history_visibility": visibility}}},
	}}
}

// visibilityChanges: each event keeps the visibility that it was sent under.
func visibilityChanges(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoom(withVisibility("shared"))
	alice.Say(room, "open")
	alice.SetState(room, event.StateHistoryVisibility, "", map[string]any{"history_visibility": "joined"})
	alice.Say(room, "closed")
	alice.SetState(room, event.StateHistoryVisibility, "", map[string]any{"history_visibility": "shared"})
	alice.Say(room, "open again")
	alice.Invite(room, bob)
	bob.Join(room)
	if got, want := harness.Bodies(bob.Page(room, "", mautrix.DirectionForward, 50)), []string{"open", "open again"}; !slices.Equal(got, want) {
		t.Errorf("bob reads %q; want %q", got, want)
	}
}

func worldReadable(t *testing.T, srv *harness.Server) {
	alice, stranger := srv.Register(t, "alice"), srv.Register(t, "stranger")
	room := alice.NewRoom(withVisibility("world_readable"))
	said := alice.Say(room, "for all the world")
	if got := harness.Bodies(stranger.Page(room, "", mautrix.DirectionBackward, 50)); !slices.Equal(got, []string{"for all the world"}) {
		t.Errorf("a stranger reads %q", got)
	}
	stranger.Event(room, said)
	stranger.StateContent(room, event.StateCreate, "")
	alice.SetState(room, event.StateHistoryVisibility, "", map[string]any{"history_visibility": "shared"})
	secret := alice.Say(room, "for us alone")
	_, err := stranger.GetEvent(t.Context(), room, secret)
	harness.WantError(t, err, 404, "M_NOT_FOUND")
	// A server may let the stranger read on in what was open then, or show nothing at all any more.
	page, err := stranger.Messages(t.Context(), room, "", "", mautrix.DirectionBackward, nil, 50)
	if err != nil {
		harness.WantError(t, err, 403, "M_FORBIDDEN")
	} else if harness.Find(page.Chunk, secret) != nil {
		t.Error("a stranger pages to what was said after the door was closed")
	}
}

// afterLeaving: one who left reads what there was, and no more.
func afterLeaving(t *testing.T, srv *harness.Server) {
	alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
	room := alice.NewRoomWith(bob)
	alice.Say(room, "with bob")
	bob.Leave(room)
	after := alice.Say(room, "without bob")
	alice.SetState(room, event.StateRoomName, "", map[string]any{"name": "without bob"})
	if got, want := harness.Bodies(bob.Page(room, "", mautrix.DirectionForward, 50)), []string{"with bob"}; !slices.Equal(got, want) {
		t.Errorf("bob reads %q; want %q", got, want)
	}
	_, err := bob.GetEvent(t.Context(), room, after)
	harness.WantError(t, err, 404, "M_NOT_FOUND")
	// The state is as it was when he left.
	state, err := bob.StateAsArray(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	if evt := harness.FindState(state, event.StateRoomName, ""); evt != nil {
		t.Errorf("bob sees the name %v that the room was given later", contents(evt)["name"])
	}
}
