package syncapi

import (
	"slices"

	"github.com/tidwall/gjson"

	"parley/clientapi/syncapi/sliding"
	"parley/internal/id"
)

// maxSpaces bounds the spaces that a filter may name.
const maxSpaces = 100

// listFilter is a list's filter with what it takes to apply it.
type listFilter struct {
	*sliding.Filter
	roster *roster
	// children are the rooms of the spaces that the filter names; nil where it names none.
	children map[id.RoomID]bool
}

// listFilter prepares a filter.
func (s *slider) listFilter(r *roster, f *sliding.Filter) (*listFilter, error) {
	out := &listFilter{Filter: f, roster: r}
	if f.Spaces == nil {
		return out, nil
	}
	out.children = make(map[id.RoomID]bool)
	for _, space := range f.Spaces[:min(len(f.Spaces), maxSpaces)] {
		if l := r.rooms[space]; l == nil || l.membership != "join" {
			continue
		}
		if err := s.addChildren(out.children, space); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// addChildren adds the rooms that a space names.
//
// spec: client-server-api/modules/spaces.md#mspacechild
func (s *slider) addChildren(children map[id.RoomID]bool, space id.RoomID) error {
	room, err := s.tx.GetRoom(space)
	if err != nil {
		return err
	}
	events, err := s.Rooms.StateEvents(s.tx, room.Root, false)
	for i := range events {
		f := gjson.GetManyBytes(events[i].JSON, "type", "state_key", "content.via")
		if f[0].Str == "m.space.child" && f[2].IsArray() {
			children[id.RoomID(f[1].Str)] = true
		}
	}
	return err
}

// lets says whether a room passes.
func (f *listFilter) lets(b *builder, room *listedRoom) (bool, error) {
	if f.DM != nil && *f.DM != f.roster.direct[room.id] ||
		f.Invited != nil && *f.Invited != (room.membership == "invite") ||
		f.children != nil && !f.children[room.id] {
		return false, nil
	}
	if f.Tags != nil || f.NotTags != nil {
		tags := f.roster.tags[room.id]
		any := func(list []string) bool {
			return slices.ContainsFunc(list, func(t string) bool { return slices.Contains(tags, t) })
		}
		if f.Tags != nil && !any(f.Tags) || any(f.NotTags) {
			return false, nil
		}
	}
	if f.Encrypted == nil && f.RoomTypes == nil && f.NotRoomTypes == nil {
		return true, nil
	}
	kind, err := f.roster.kindOf(b, room)
	if err != nil {
		return false, err
	}
	is := func(t *string) bool {
		return t == nil && kind.Type == "" || t != nil && *t == kind.Type && kind.Type != ""
	}
	return (f.Encrypted == nil || *f.Encrypted == kind.Encrypted) &&
		(f.RoomTypes == nil || slices.ContainsFunc(f.RoomTypes, is)) &&
		!slices.ContainsFunc(f.NotRoomTypes, is), nil
}
