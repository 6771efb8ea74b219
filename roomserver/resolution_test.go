package roomserver

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver/dag"
	"parley/storage"
)

// head is a room's row.
func (s *Server) head(t testing.TB, room id.RoomID) storage.Room {
	t.Helper()
	head, err := storage.Get(context.Background(), s.db, func(tx *storage.Tx) (storage.Room, error) { return tx.GetRoom(room) })
	ok(t, err)
	return head
}

// branch appends state events to a head that others may have been appended to before, and
// returns the head after them.
func (s *Server) branch(t testing.TB, head storage.Room, drafts ...draft) storage.Room {
	t.Helper()
	ok(t, s.db.Write(context.Background(), func(tx *storage.Tx) error {
		w := &work{tx: tx, room: head}
		for _, d := range drafts {
			d.Room = head.ID
			if _, err := s.append(w, &d, Txn{}); err != nil {
				return err
			}
		}
		head = w.room
		return w.finish()
	}))
	return head
}

func stateDraft(sender id.UserID, eventType, stateKey, content string) draft {
	return draft{Sender: sender, Type: eventType, StateKey: &stateKey, Content: []byte(content)}
}

func TestResolve(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		for _, version := range []id.RoomVersion{"1", "10", "12"} {
			t.Run(string(version), func(t *testing.T) {
				ctx := context.Background()
				room := s.mustCreate(t, CreateRequest{Preset: "public_chat", Version: version})
				ok(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}))
				head := s.head(t, room)
				// Alice bans Bob; Bob, who has not seen it, changes his name.
				banned := s.branch(t, head, stateDraft(alice, "m.room.member", string(bob), `{"membership":"ban"}`))
				named := s.branch(t, head, stateDraft(bob, "m.room.member", string(bob), `{"displayname":"B","membership":"join"}`),
					stateDraft(alice, "m.room.topic", "", `{"topic":"new"}`))

				var root int64
				ok(t, s.db.Write(ctx, func(tx *storage.Tx) (err error) {
					root, err = s.resolve(tx, &head, []int64{banned.Root, named.Root})
					return err
				}))
				ok(t, s.db.Read(ctx, func(tx *storage.Tx) error {
					member, err := s.stateEvent(tx, &head, root, "m.room.member", string(bob))
					if err != nil {
						return err
					}
					if member.membership() != "ban" {
						t.Errorf("Bob's membership is %s", member.membership())
					}
					topic, err := s.stateEvent(tx, &head, root, "m.room.topic", "")
					if err != nil {
						return err
					}
					if topic.field("topic") != "new" {
						t.Errorf("the topic is %q", topic.field("topic"))
					}
					return nil
				}))
			})
		}
	})
}

func TestDAG(t *testing.T) {
	each(t, func(t *testing.T, s *Server) {
		ctx := context.Background()
		room := s.mustCreate(t, CreateRequest{Preset: "public_chat", Version: "11"})
		ok(t, s.Join(ctx, MemberRequest{Room: room, Sender: bob}))
		raise := stateDraft(alice, "m.room.power_levels", "", `{"users":{"@alice:test":100,"@bob:test":50}}`)
		head := s.branch(t, s.head(t, room), raise)
		lower := stateDraft(alice, "m.room.power_levels", "", `{"users":{"@alice:test":100}}`)
		demoted := s.branch(t, head, lower)
		named := s.branch(t, head, stateDraft(bob, "m.room.name", "", `{"name":"Bob's"}`))

		merged := demoted
		merged.Extremities = append(slices.Clone(demoted.Extremities), named.Extremities...)
		ok(t, s.db.Write(ctx, func(tx *storage.Tx) (err error) {
			merged.Root, err = s.resolve(tx, &merged, []int64{demoted.Root, named.Root})
			return err
		}))
		s.branch(t, merged, stateDraft(alice, "m.room.topic", "", `{"topic":"secret"}`))

		g, err := s.DAG(ctx, room, nil, 100)
		ok(t, err)
		last := slices.IndexFunc(g.Events, func(e dag.Event) bool { return e.Type == "m.room.topic" })
		if last < 0 || !g.Events[last].Extremity {
			t.Fatalf("the topic is not drawn as a forward extremity: %+v", g)
		}
		var said []string
		for _, v := range g.Events[last].Resolution {
			said = append(said, v.Text)
			if v.Taken != (v.ID == demoted.Extremities[0].ID) {
				t.Errorf("%s: taken is %t", v.Text, v.Taken)
			}
			want := "0 < 50"
			if v.ID == head.Extremities[0].ID {
				want = "another one came after it"
			}
			if !v.Taken && !strings.Contains(v.Reason, want) {
				t.Errorf("%s was dropped for this reason: %q", v.Text, v.Reason)
			}
		}
		if len(said) != 3 {
			t.Errorf("of the merge it says %q", said)
		}
		var b bytes.Buffer
		ok(t, dag.SVG(&b, g))
		if !strings.Contains(b.String(), "@bob:test 50 → unset") {
			t.Error("the drawing does not say what Bob lost")
		}
		if strings.Contains(b.String(), "secret") {
			t.Error("the drawing shows a topic")
		}

		around, err := s.DAG(ctx, room, []id.EventID{named.Extremities[0].ID}, 3)
		ok(t, err)
		if len(around.Events) != 3 || !slices.ContainsFunc(around.Events, func(e dag.Event) bool { return e.Marked }) {
			t.Errorf("around an event there is %+v", around.Events)
		}
		_, err = s.DAG(ctx, room, []id.EventID{"$no"}, 3)
		refused(t, err, matrixerr.NotFound)
		_, err = s.DAG(ctx, "!no:test", nil, 3)
		refused(t, err, matrixerr.NotFound)
	})
}
