package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/storage"
)

// joinedOf is how many members each other server has in a room, as far as a node knows.
func (n *node) joinedOf(t *testing.T, room id.RoomID) map[id.ServerName]int64 {
	t.Helper()
	out := make(map[id.ServerName]int64)
	ok(t, n.db.Read(context.Background(), func(tx *storage.Tx) error {
		r, err := tx.GetRoom(room)
		if err != nil {
			return err
		}
		servers, err := tx.ListRoomServers(r.NID)
		there := 0
		for _, s := range servers {
			if out[s.Server] = s.Joined; s.Joined > 0 {
				there++
			}
		}
		if int(r.Servers) != there {
			t.Errorf("the room counts %d servers of %v", r.Servers, out)
		}
		return err
	}))
	return out
}

// crowd is a room of a, with members of a and c, one of whom has left.
func (m mesh) crowd(t *testing.T, version id.RoomVersion) id.RoomID {
	t.Helper()
	ctx := context.Background()
	levels := map[id.UserID]int{"@gone:a": 70, "@there:a": 60}
	if version != "12" {
		levels[m["a"].user] = 100
	}
	users, err := json.Marshal(levels)
	ok(t, err)
	room, err := m["a"].Create(ctx, CreateRequest{Creator: m["a"].user, Version: version, Preset: "public_chat", Name: new("Crowd"),
		PowerLevels: map[string]json.RawMessage{"users": users}})
	ok(t, err)
	for _, user := range []id.UserID{"@there:a", "@gone:a", "@third:a"} {
		ok(t, m["a"].Join(ctx, MemberRequest{Room: room, Sender: user}))
	}
	ok(t, m["c"].Join(ctx, MemberRequest{Room: room, Sender: m["c"].user, Via: []id.ServerName{"a"}}))
	ok(t, m["a"].Leave(ctx, MemberRequest{Room: room, Sender: "@gone:a"}))
	return room
}

func TestJoinPartial(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"1", "6", "10", "12"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		m, links := newMesh(t, url, "a", "b", "c")
		a, b := m["a"], m["b"]
		room := m.crowd(t, version)
		links["b"].partial = true
		join := MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}
		ok(t, b.Join(ctx, join))
		b.is(t, spec.Join, room)
		if all, part := a.state(t, room), b.state(t, room); len(part) >= len(all)-3 {
			t.Errorf("%d of %d events of the state are known", len(part), len(all))
		}
		if got := b.joinedOf(t, room); !maps.Equal(got, map[id.ServerName]int64{"a": 1, "c": 1}) {
			t.Errorf("the servers in the room are thought to be %v", got)
		}

		// Who is not known yet can be heard, and heard by.
		said, err := a.Send(ctx, SendRequest{Room: room, Sender: "@third:a", Type: "m.room.message", Content: []byte(`{"body":"hello"}`)})
		ok(t, err)
		m.carry(t, "a", "b", room)
		if shown := b.events(t, room); shown[len(shown)-1].ID != said {
			t.Errorf("the last event is %s", shown[len(shown)-1].JSON)
		}
		heard := b.say(t, room, "hello")
		sent, err := storage.Get(ctx, b.db, func(tx *storage.Tx) ([]storage.Outgoing, error) { return tx.ListOutgoingFor("c", 0, 1<<40, 10) })
		if ok(t, err); len(sent) != 1 {
			t.Errorf("%d events are to be sent to c", len(sent))
		}
		m.carry(t, "b", "a", room)

		// Others are not let in, nor told who is there.
		_, err = b.MakeMember(ctx, "d", room, "@u:d", spec.Join, nil)
		refused(t, err, matrixerr.NotFound)
		_, err = b.ServeStateIDs(ctx, "a", room, heard)
		refused(t, err, matrixerr.Forbidden)

		// Members are waited for.
		done := make(chan error)
		go func() {
			members, err := b.JoinedMembers(ctx, b.user, room)
			if err == nil && len(members) != 5 {
				err = fmt.Errorf("there are %d members", len(members))
			}
			done <- err
		}()
		select {
		case err := <-done:
			t.Errorf("told at once: %v", err)
		default:
		}
		// A first try fails, and leaves all as it is.
		links["b"].dead["a"], links["b"].dead["c"] = true, true
		if err := b.completeJoin(ctx, room); err == nil {
			t.Error("complete by nobody's word")
		}
		links["b"].dead["a"] = false
		ok(t, b.completeJoin(ctx, room))
		ok(t, <-done)
		m.agree(t, room, "a", "b")
		if got := b.joinedOf(t, room); !maps.Equal(got, map[id.ServerName]int64{"a": 3, "c": 1}) {
			t.Errorf("the servers in the room are %v", got)
		}
		if n := len(b.events(t, room)); n != 3 {
			t.Errorf("the timeline has %d events", n)
		}
		state, err := b.ServeStateIDs(ctx, "a", room, heard)
		if ok(t, err); len(state.PDUs) != len(a.state(t, room)) {
			t.Errorf("the state has %d events", len(state.PDUs))
		}

		// Out, and in again, before all is known.
		ok(t, b.Leave(ctx, MemberRequest{Room: room, Sender: b.user}))
		m.carry(t, "b", "a", room)
		ok(t, b.Join(ctx, join))
		ok(t, b.Leave(ctx, MemberRequest{Room: room, Sender: b.user}))
		m.carry(t, "b", "a", room)
		ok(t, b.Join(ctx, join))
		ok(t, b.completeJoin(ctx, room))
		m.agree(t, room, "a", "b")
		if got := b.joinedOf(t, room); !maps.Equal(got, map[id.ServerName]int64{"a": 3, "c": 1}) {
			t.Errorf("the servers in the room are %v", got)
		}
	})
}

// TestPartialJudgedAgain has a node believe what it could not know to be wrong, until it could.
func TestPartialJudgedAgain(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"6", "11"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		m, links := newMesh(t, url, "a", "b", "c")
		a, b := m["a"], m["b"]
		room := m.crowd(t, version)
		links["b"].partial = true
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))
		head := b.events(t, room)[0]
		find := func(eventType string) id.EventID {
			for _, e := range a.events(t, room) {
				if gjson.GetBytes(e.JSON, "type").Str == eventType {
					return e.ID
				}
			}
			t.Fatalf("there is no %s", eventType)
			return ""
		}
		prev, depth := head.ID, gjson.GetBytes(head.JSON, "depth").Int()
		say := func(sender id.UserID, eventType, stateKey string, content map[string]any, cited ...id.EventID) json.RawMessage {
			depth++
			fields := map[string]any{"room_id": room, "sender": sender, "type": eventType, "content": content, "depth": depth,
				"origin_server_ts": 1, "prev_events": []id.EventID{prev},
				"auth_events": append([]id.EventID{find(spec.MRoomCreate), find(spec.MRoomPowerLevels)}, cited...)}
			if stateKey != "-" {
				fields["state_key"] = stateKey
			}
			raw := signAs(t, version, "a", fields)
			pdu, err := Parse(version, raw)
			ok(t, err)
			prev = id.EventID(pdu.EventID())
			return raw
		}
		var known []json.RawMessage
		for _, e := range a.events(t, room) {
			known = append(known, e.JSON)
		}
		r, err := storage.Get(ctx, b.db, func(tx *storage.Tx) (storage.Room, error) { return tx.GetRoom(room) })
		ok(t, err)
		ok(t, b.takeOutliers(ctx, &r, known))
		gone, there := a.memberEvent(t, room, "@gone:a", spec.Join), a.memberEvent(t, room, "@there:a", spec.Join)
		events := []json.RawMessage{
			say("@gone:a", spec.MRoomMember, "@there:a", map[string]any{"membership": "leave"}, gone, there),
			say("@there:a", spec.MRoomTopic, "", map[string]any{"topic": "there"}, there),
			say("@third:a", spec.MRoomName, "", map[string]any{"name": "no"}, a.memberEvent(t, room, "@third:a", spec.Join)),
			say(a.user, "m.room.message", "-", map[string]any{"body": "last"}, a.memberEvent(t, room, a.user, spec.Join)),
		}
		taken, err := b.Take(ctx, "a", events)
		ok(t, err)
		for _, e := range taken {
			ok(t, e.Err) // for all that the node can tell
		}
		if n := len(b.events(t, room)); n != 3 {
			t.Errorf("the timeline has %d events, and not the join, the kick and the last", n)
		}
		if got, err := b.Membership(ctx, "@there:a", room); err != nil || got != spec.Leave {
			t.Errorf("the one who was kicked is %s, %v", got, err)
		}
		ok(t, b.completeJoin(ctx, room))
		if got, err := b.Membership(ctx, "@there:a", room); err != nil || got != spec.Join {
			t.Errorf("the one who was not kicked is %s, %v", got, err)
		}
		var shown []id.EventID
		for _, e := range b.events(t, room) {
			shown = append(shown, e.ID)
		}
		if want := []id.EventID{head.ID, taken[3].Event, taken[1].Event}; !slices.Equal(shown, want) {
			t.Errorf("the timeline is %q, not %q", shown, want)
		}
		want := append(a.state(t, room), "m.room.topic  "+string(taken[1].Event))
		if slices.Sort(want); !slices.Equal(b.state(t, room), want) {
			t.Errorf("the state is\n%q\nnot\n%q", b.state(t, room), want)
		}
		if n := b.extremities(t, room); n != 1 {
			t.Errorf("%d forward extremities", n)
		}
		b.say(t, room, "and on")
	})
}

// TestPartialHostile gives a node that was let in wrong accounts of who is in the room.
func TestPartialHostile(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"10"}, func(t *testing.T, version id.RoomVersion, url string) {
		ctx := context.Background()
		m, links := newMesh(t, url, "a", "b", "c")
		a, b := m["a"], m["b"]
		room := m.crowd(t, version)
		links["b"].partial = true
		links["b"].change = func(s *serverapi.SendJoin) {
			s.ServersInRoom = append(s.ServersInRoom, "b", "not a name", "", "a", "a")
		}
		ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}))
		if got := b.joinedOf(t, room); !maps.Equal(got, map[id.ServerName]int64{"a": 1, "c": 1}) {
			t.Errorf("the servers in the room are thought to be %v", got)
		}
		// The room goes on, and away from us, before we know all.
		ok(t, a.Ban(ctx, MemberRequest{Room: room, Sender: a.user, Target: b.user}))
		m.carry(t, "a", "b", room)
		b.is(t, spec.Ban, room)
		if rooms, err := b.partialRooms(ctx); err != nil || len(rooms) != 0 {
			t.Errorf("%d rooms are to be completed, %v", len(rooms), err)
		}
		if _, err := b.Members(ctx, MembersRequest{Room: room, Reader: Reader{User: b.user}}); err != nil {
			t.Error(err) // and did not wait
		}
		links["b"].dead["c"] = true // which has not heard of it
		refused(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user, Via: []id.ServerName{"a"}}), matrixerr.Forbidden)
	})
}

// TestPartialKnock has a node come into a room on which another of its users knocks, who is turned away before it is
// known who is there, afterwards, or at the same time: that one is never said to be in the room.
func TestPartialKnock(t *testing.T) {
	eachVersion(t, []id.RoomVersion{"7", "11", "12"}, func(t *testing.T, version id.RoomVersion, url string) {
		m, links := newMesh(t, url, "a", "b")
		a, b := m["a"], m["b"]
		for _, when := range []string{"before", "afterwards", "at the same time"} {
			t.Run(when, func(t *testing.T) {
				ctx := context.Background()
				room, err := a.Create(ctx, CreateRequest{Creator: a.user, Version: version,
					InitialState: []StateEvent{{Type: spec.MRoomJoinRules, Content: []byte(`{"join_rule":"knock"}`)}}})
				ok(t, err)
				const other = id.UserID("@other:b")
				for _, user := range []id.UserID{b.user, other} {
					ok(t, b.Knock(ctx, MemberRequest{Room: room, Sender: user, Via: []id.ServerName{"a"}}))
				}
				ok(t, a.Invite(ctx, MemberRequest{Room: room, Sender: a.user, Target: b.user}))
				links["b"].partial = true
				ok(t, b.Join(ctx, MemberRequest{Room: room, Sender: b.user}))
				turnAway := func() {
					ok(t, a.Kick(ctx, MemberRequest{Room: room, Sender: a.user, Target: other}))
					m.carry(t, "a", "b", room)
				}
				switch when {
				case "before":
					turnAway()
					ok(t, b.completeJoin(ctx, room))
				case "afterwards":
					ok(t, b.completeJoin(ctx, room))
					turnAway()
				default:
					done := make(chan error)
					go func() { done <- b.completeJoin(ctx, room) }()
					turnAway()
					ok(t, <-done)
				}
				m.agree(t, room, "a", "b")
				if got, err := b.Membership(ctx, other, room); err != nil || got != spec.Leave {
					t.Errorf("who was turned away is %s, %v", got, err)
				}
				if !b.saidToBeIn(b.user) || b.saidToBeIn(other) {
					t.Errorf("said to be in the room are %v", b.joined)
				}
			})
		}
	})
}
