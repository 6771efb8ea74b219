package storage_test

import (
	"context"
	"fmt"
	"testing"

	"parley/internal/id"
	"parley/storage"
	"parley/storage/storagetest"
)

// TestMembershipSince has a member's events replace each other: since when they are in the room moves when
// they came, and with an event that does not follow the one that was known.
func TestMembershipSince(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		db := storagetest.Open(t, url, nil)
		const user id.UserID = "@u:y"
		// An event follows the one with the number in follows, counted from 1.
		for i, test := range []struct {
			membership string
			follows    int
			moves      bool
		}{
			{"join", 0, true},
			{"join", 1, false}, // another name
			{"join", 2, false},
			{"join", 2, true}, // that of a fork: who knows what was before
			{"leave", 4, true},
			{"ban", 5, true},
			{"join", 6, true},
			{"join", 0, true},
		} {
			var before, after []storage.Membership
			var pos id.Pos
			err := db.Write(context.Background(), func(tx *storage.Tx) error {
				room, err := tx.GetRoom("!r:x")
				if i == 0 {
					room, err = tx.InsertRoom("!r:x", "12")
				}
				if err != nil {
					return err
				}
				if before, err = tx.ListMemberships(user); err != nil {
					return err
				}
				e := storage.Event{ID: id.EventID(fmt.Sprint("$", i+1)), Room: room.NID, JSON: []byte(`{}`)}
				if test.follows > 0 {
					old, err := tx.GetEvent(id.EventID(fmt.Sprint("$", test.follows)))
					if err != nil {
						return err
					}
					e.Replaces = old.NID
				}
				if err := tx.InsertEvent(&e); err != nil {
					return err
				}
				if err := tx.InsertMembership(&storage.Membership{User: user, Room: room.NID, Membership: test.membership, Event: e.NID}); err != nil {
					return err
				}
				tx.OnPos(1, func(p id.Pos) error {
					pos = p
					return tx.UpdateMembershipPos(room.NID, []id.UserID{user}, p)
				})
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			var fresh []id.UserID
			err = db.Write(context.Background(), func(tx *storage.Tx) (err error) {
				if after, err = tx.ListMemberships(user); err != nil {
					return err
				}
				// A list that was asked for at a position is of use to nobody where they came later.
				if err := tx.InsertRemoteDeviceList(user); err != nil {
					return err
				}
				_, err = tx.Exec(`INSERT INTO memberships (user_id, room_nid, membership, event_nid, pos, since, local)
					VALUES ('@a:x', $1, 'join', 0, 0, 0, TRUE) ON CONFLICT (user_id, room_nid) DO NOTHING`, after[0].Room)
				if err != nil {
					return err
				}
				if err := tx.UpdateRemoteDeviceList(&storage.RemoteDeviceList{User: user, Pos: pos - 1}); err != nil {
					return err
				}
				fresh, err = tx.ListFreshDeviceLists([]id.UserID{user})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(before) > 0 && after[0].Pos <= before[0].Pos {
				t.Errorf("event %d: position %d after %d", i+1, after[0].Pos, before[0].Pos)
			}
			if want := test.membership == "join" && !test.moves; (len(fresh) > 0) != want {
				t.Errorf("event %d: the list of before is fresh: %v", i+1, fresh)
			}
		}
	})
}
