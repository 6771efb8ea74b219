package roomserver

import (
	"math"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/storage"
)

// What users wrote who had it erased is shown redacted to those, users and servers, who were not in the room
// by then. Nothing of the room changes by it.
//
// spec: client-server-api/index.md#account-deactivation

// erasable says whether erasure concerns an event: a message, or what a user says of themselves as
// a member. The rest of the state is the room's. sender is whose it is.
func erasable(s *Server, e *storage.Event) (sender id.UserID, ok bool) {
	if e.RedactedBy != 0 || e.Expired {
		return "", false
	}
	f := gjson.GetManyBytes(e.JSON, "sender", "type", "state_key")
	sender = id.UserID(f[0].Str)
	return sender, s.local(sender) && (!f[2].Exists() || f[1].Str == spec.MRoomMember && f[2].Str == f[0].Str)
}

// AsShown gives events, which their reader may see, in the form that they may see: redacted where
// the sender had it erased, and the reader could not see it before.
func (v *View) AsShown(events []storage.Event) ([]storage.Event, error) {
	erased, err := v.erased(events)
	if err != nil || len(erased) == 0 {
		return events, err
	}
	rules, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(v.Room.Version))
	if err != nil {
		return nil, err
	}
	out := make([]storage.Event, len(events))
	for i, e := range events {
		if erased[e.NID] {
			if e.JSON, err = rules.RedactEventJSON(e.JSON); err != nil {
				return nil, err
			}
			e.Replaces = 0 // which is shown with it
		}
		out[i] = e
	}
	return out, nil
}

// erased are those of some events that the reader is shown redacted. Who was a member at an event has
// seen it; so mostly there is nothing to look up.
func (v *View) erased(events []storage.Event) (map[storage.EventNID]bool, error) {
	var missed []*storage.Event
	senders := make(map[id.UserID]bool)
	var names []id.UserID
	for i := range events {
		e := &events[i]
		then, err := v.MembershipAt(e)
		if err != nil {
			return nil, err
		}
		if then == spec.Join {
			continue
		}
		sender, ok := erasable(v.s, e)
		if !ok || sender == v.user {
			continue
		}
		missed = append(missed, e)
		if !senders[sender] {
			senders[sender] = true
			names = append(names, sender)
		}
	}
	positions, err := v.tx.ListErased(names)
	if err != nil || len(positions) == 0 {
		return nil, err
	}
	out := make(map[storage.EventNID]bool)
	for _, e := range missed {
		pos, ok := positions[id.UserID(gjson.GetBytes(e.JSON, "sender").Str)]
		if !ok {
			continue
		}
		seen, err := v.sawBy(e, storage.Ord(pos))
		if err != nil {
			return nil, err
		}
		out[e.NID] = !seen
	}
	return out, nil
}

// stay is a time in which a user was in a room, as places of the timeline.
type stay struct{ from, to storage.Ord }

// sawBy says whether the reader of an event that they may see now could see it by a place of the timeline: whether
// they had come by then, and were there still when it was sent.
func (v *View) sawBy(e *storage.Event, by storage.Ord) (bool, error) {
	if v.stays == nil {
		stays, err := v.findStays()
		if err != nil {
			return false, err
		}
		v.stays = stays
	}
	ord, ok, err := v.tx.GetOrd(e.NID)
	if err != nil || !ok {
		return false, err
	}
	for _, s := range v.stays {
		if s.from <= by && ord <= s.to {
			return true, nil
		}
	}
	return false, nil
}

// findStays goes back through the user's member events.
func (v *View) findStays() ([]stay, error) {
	stays := []stay{}
	now := stay{to: math.MaxInt64}
	in := false
	nid := v.Member.Event
	for range 1000 {
		if nid == 0 {
			break
		}
		events, err := v.s.loadEvents(v.tx, v.Room.Version, []storage.EventNID{nid})
		if err != nil {
			return nil, err
		}
		e := events[nid]
		ord, _, err := v.tx.GetOrd(nid)
		if err != nil {
			return nil, err
		}
		switch joined := e.membership() == spec.Join; {
		case joined:
			in, now.from = true, ord
		case in:
			stays, in = append(stays, now), false
			now.to = ord
		default:
			now.to = ord
		}
		nid = e.Replaces
	}
	if in {
		stays = append(stays, now)
	}
	return stays, nil
}

// withoutFormer gives the events of a state, which don't tell what somebody was as a member who has left, and had
// what they wrote erased.
func (s *Server) withoutFormer(tx *storage.Tx, events []storage.Event) ([]storage.Event, error) {
	left := make(map[int]id.UserID)
	var names []id.UserID
	for i := range events {
		if events[i].Replaces == 0 {
			continue
		}
		f := gjson.GetManyBytes(events[i].JSON, "type", "state_key", "content.membership")
		if user := id.UserID(f[1].Str); f[0].Str == spec.MRoomMember && f[2].Str == spec.Leave && s.local(user) {
			left[i], names = user, append(names, user)
		}
	}
	erased, err := tx.ListErased(names)
	if err != nil || len(erased) == 0 {
		return events, err
	}
	events = slices.Clone(events)
	for i, user := range left {
		if _, ok := erased[user]; ok {
			events[i].Replaces = 0
		}
	}
	return events, nil
}

// erased says whether a server is given an event redacted: it is a message whose sender had it erased
// before anybody of the server was in the room. The state is given as it is, as it must be the same for all.
func (v *serving) erased(e *event) (bool, error) {
	sender, ok := erasable(v.s, &e.Event)
	if !ok || e.StateKey() != nil {
		return false, nil
	}
	pos, ok := v.positions[sender]
	if !ok {
		found, err := v.tx.ListErased([]id.UserID{sender})
		if err != nil {
			return false, err
		}
		if pos, ok = found[sender]; !ok {
			pos = math.MaxInt64
		}
		v.positions[sender] = pos
	}
	if pos == math.MaxInt64 {
		return false, nil
	}
	if there, err := v.member(e.Root, false); err != nil || there {
		return false, err
	}
	joins, err := v.arrivals()
	if err != nil {
		return false, err
	}
	for _, j := range joins {
		if ord, _, err := v.tx.GetOrd(j.NID); err != nil || ord <= storage.Ord(pos) {
			return false, err
		}
	}
	return true, nil
}
