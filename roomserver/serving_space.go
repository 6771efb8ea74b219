package roomserver

import (
	"context"
	"encoding/json"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/storage"
)

// ServeHierarchy gives a server a room and the rooms directly in it, as far as any of its users
// may come to them.
//
// spec: server-server-api.md#get_matrixfederationv1hierarchyroomid
func (s *Server) ServeHierarchy(ctx context.Context, origin id.ServerName, room id.RoomID, suggestedOnly bool) (*serverapi.Hierarchy, error) {
	out := &serverapi.Hierarchy{Children: []json.RawMessage{}, Inaccessible: []id.RoomID{}}
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		sum, known, err := s.summaryFor(tx, origin, room)
		if err != nil {
			return err
		}
		if sum == nil || !known {
			return matrixerr.New(matrixerr.NotFound, "The room is not known here, or your server may not see it.")
		}
		out.Room, err = json.Marshal(sum)
		if err != nil {
			return err
		}
		seen := map[id.RoomID]bool{room: true}
		for _, child := range sum.ChildrenState {
			to := id.RoomID(gjson.GetBytes(child, "state_key").Str)
			if seen[to] || suggestedOnly && !gjson.GetBytes(child, "content.suggested").Bool() {
				continue
			}
			seen[to] = true
			sum, known, err := s.summaryFor(tx, origin, to)
			switch {
			case err != nil:
				return err
			case !known:
			case sum == nil:
				out.Inaccessible = append(out.Inaccessible, to)
			default:
				text, err := json.Marshal(sum.RoomSummary)
				if err != nil {
					return err
				}
				out.Children = append(out.Children, text)
			}
		}
		return nil
	})
	return out, err
}

// summaryFor is a room as another server may be shown it, nil where it may not; known says
// that we know the room.
func (s *Server) summaryFor(tx *storage.Tx, origin id.ServerName, room id.RoomID) (sum *HierarchyRoom, known bool, err error) {
	r, ok, err := s.known(tx, room)
	if err != nil || !ok {
		return nil, false, err
	}
	summary, err := s.roomSummary(tx, &r)
	if err != nil {
		return nil, true, err
	}
	if ok, err := s.serverMayCome(tx, &r, &summary, origin); err != nil || !ok {
		return nil, true, err
	}
	children, err := s.childrenState(tx, &r, summary.RoomType)
	return &HierarchyRoom{RoomSummary: summary, ChildrenState: children}, true, err
}

// serverMayCome is mayCome for any of a server's users.
func (s *Server) serverMayCome(tx *storage.Tx, room *storage.Room, sum *RoomSummary, origin id.ServerName) (bool, error) {
	if allowed, err := s.serverAllowed(tx, room, origin); err != nil || !allowed {
		return false, err
	}
	if ok, _, err := s.mayCome(tx, sum, ""); err != nil || ok {
		return ok, err
	}
	if there, err := tx.HasMemberOf(room.NID, origin); err != nil || there {
		return there, err
	}
	if invited, err := tx.HasInviteOf(room.NID, origin); err != nil || invited {
		return invited, err
	}
	if sum.JoinRule != spec.Restricted {
		return false, nil
	}
	for _, allow := range sum.AllowedRoomIDs {
		r, err := tx.GetRoom(allow)
		if missing, err := notFound(err); err != nil {
			return false, err
		} else if missing {
			continue
		}
		if there, err := tx.HasMemberOf(r.NID, origin); err != nil || there {
			return there, err
		}
	}
	return false, nil
}
