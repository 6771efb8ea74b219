package roomserver

import (
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/storage"
)

// Encounters says who of met shares a room with a user now and has not done so all the time since a
// position; and who of lost shared one then, and shares none now. The one may have devices that the
// user knows nothing of, the devices of the other are of no interest any more. The user, too, is one who came:
// their devices may know nothing of each other before the first room.
//
// spec: client-server-api/modules/end_to_end_encryption.md#tracking-the-device-list-for-a-user
func (s *Server) Encounters(tx *storage.Tx, user id.UserID, since id.Pos, met, lost []id.UserID) (came, went []id.UserID, err error) {
	both := slices.Concat(met, lost)
	if len(both) == 0 {
		return nil, nil, nil
	}
	now, err := tx.ListSharedRooms(user, both)
	if err != nil {
		return nil, nil, err
	}
	var always []id.UserID
	if len(met) > 0 {
		if always, err = tx.ListSharedRoomsSince(user, met, since); err != nil {
			return nil, nil, err
		}
	}
	is, was := setOf(now), setOf(always)
	for _, u := range met {
		if is[u] && !was[u] {
			came = append(came, u)
		}
	}
	lost = slices.DeleteFunc(slices.Clone(lost), func(u id.UserID) bool { return u == user || is[u] })
	if len(lost) > 0 {
		went, err = s.partedSince(tx, user, since, lost)
	}
	return came, went, err
}

func setOf(users []id.UserID) map[id.UserID]bool {
	out := make(map[id.UserID]bool, len(users))
	for _, u := range users {
		out[u] = true
	}
	return out
}

// partedSince are those of some users who share no room with a user who shared one at a position.
func (s *Server) partedSince(tx *storage.Tx, user id.UserID, since id.Pos, others []id.UserID) ([]id.UserID, error) {
	rooms, err := tx.ListPartings(user, others, since)
	if err != nil {
		return nil, err
	}
	were := make(map[id.UserID]bool)
	for room, others := range rooms {
		root, _, ok, err := tx.GetCurrentAt(room, storage.Ord(since))
		if err != nil {
			return nil, err
		}
		if !ok || root == 0 {
			continue
		}
		events, err := s.MembersAt(tx, root, append(others, user))
		if err != nil {
			return nil, err
		}
		joined := make(map[id.UserID]bool, len(events))
		for i := range events {
			f := gjson.GetManyBytes(events[i].JSON, "state_key", "content.membership")
			joined[id.UserID(f[0].Str)] = f[1].Str == spec.Join
		}
		for _, u := range others {
			were[u] = were[u] || joined[user] && joined[u]
		}
	}
	var out []id.UserID
	for u, yes := range were {
		if yes {
			out = append(out, u)
		}
	}
	return out, nil
}
