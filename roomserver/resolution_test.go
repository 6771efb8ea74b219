package roomserver

import (
	"context"
	"testing"

	"parley/internal/id"
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
// returns the state after them.
func (s *Server) branch(t testing.TB, head storage.Room, drafts ...draft) int64 {
	t.Helper()
	var root int64
	ok(t, s.db.Write(context.Background(), func(tx *storage.Tx) error {
		w := &work{tx: tx, room: head}
		for _, d := range drafts {
			d.Room = head.ID
			if _, err := s.append(w, &d, Txn{}); err != nil {
				return err
			}
		}
		root = w.room.Root
		return nil
	}))
	return root
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
					root, err = s.resolve(tx, &head, []int64{banned, named})
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
