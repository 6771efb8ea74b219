package roomserver

import (
	"encoding/json"

	"github.com/tidwall/gjson"

	"parley/internal/clientevent"
	"parley/internal/id"
	"parley/storage"
)

// Reader is for whom events are rendered.
type Reader struct {
	User id.UserID
	// DeviceNID is the device that is shown its own transaction IDs; 0 for none.
	DeviceNID int64
	// WithRoomID has each event name its room, as everywhere but in /sync.
	WithRoomID bool
	// Bundle adds the aggregations of relations.
	Bundle bool
}

// Render gives events the form that a client is shown, in their order. view may be nil for
// events whose reader's membership is not told, such as state.
func (s *Server) Render(tx *storage.Tx, view *View, room *storage.Room, events []storage.Event, r Reader) ([]json.RawMessage, error) {
	var err error
	if view != nil {
		events, err = view.AsShown(events)
	} else {
		events, err = s.withoutFormer(tx, events)
	}
	if err != nil {
		return nil, err
	}
	others, err := s.renderContext(tx, events)
	if err != nil {
		return nil, err
	}
	var bundles map[id.EventID][]byte
	if r.Bundle {
		if bundles, err = s.bundles(tx, view, room, events, r); err != nil {
			return nil, err
		}
	}
	now := s.now()
	out := make([]json.RawMessage, len(events))
	for i := range events {
		e := &events[i]
		u := clientevent.Unsigned{
			Age: max(0, now-gjson.GetBytes(e.JSON, "origin_server_ts").Int()), Relations: bundles[e.ID],
		}
		if e.TxnID != "" && e.DeviceNID == r.DeviceNID {
			u.TxnID = e.TxnID
		}
		if view != nil {
			if u.Membership, err = view.MembershipAt(e); err != nil {
				return nil, err
			}
		}
		if prev, ok := others[e.Replaces]; ok {
			u.Replaces = prev.ID
			u.PrevContent = []byte(gjson.GetBytes(prev.JSON, "content").Raw)
			u.PrevSender = gjson.GetBytes(prev.JSON, "sender").Str
		}
		var roomID id.RoomID
		if r.WithRoomID {
			roomID = room.ID
		}
		if by, ok := others[e.RedactedBy]; ok && !by.Expired {
			u.RedactedBecause = clientevent.Append(nil, by.JSON, by.ID, roomID,
				&clientevent.Unsigned{Age: max(0, now-gjson.GetBytes(by.JSON, "origin_server_ts").Int())})
		}
		out[i] = clientevent.Append(make([]byte, 0, len(e.JSON)+128), e.JSON, e.ID, roomID, &u)
	}
	return out, nil
}

// RenderWhole gives events the form in which they are shown by themselves, to one who need not be a member.
func (s *Server) RenderWhole(tx *storage.Tx, room *storage.Room, events []storage.Event) ([]json.RawMessage, error) {
	return s.Render(tx, nil, room, events, Reader{WithRoomID: true})
}

// renderContext loads what the unsigned data of events speaks of.
func (s *Server) renderContext(tx *storage.Tx, events []storage.Event) (map[storage.EventNID]storage.Event, error) {
	var nids []storage.EventNID
	for i := range events {
		for _, nid := range []storage.EventNID{events[i].Replaces, events[i].RedactedBy} {
			if nid != 0 {
				nids = append(nids, nid)
			}
		}
	}
	rows, err := tx.ListEventsByNID(nids)
	if err != nil {
		return nil, err
	}
	out := make(map[storage.EventNID]storage.Event, len(rows))
	for _, row := range rows {
		out[row.NID] = row
	}
	return out, nil
}

// bundles are the aggregations of the events' relations.
//
// spec: client-server-api/index.md#aggregations-of-child-events
func (s *Server) bundles(tx *storage.Tx, view *View, room *storage.Room, events []storage.Event, r Reader) (map[id.EventID][]byte, error) {
	if some, err := tx.HasRelations(room.NID); err != nil || !some {
		return nil, err
	}
	targets := make([]id.EventID, 0, len(events))
	senders := make(map[id.EventID]string, len(events))
	for i := range events {
		if gjson.GetBytes(events[i].JSON, "state_key").Exists() || events[i].RedactedBy != 0 {
			continue
		}
		targets = append(targets, events[i].ID)
		senders[events[i].ID] = gjson.GetBytes(events[i].JSON, "sender").Str
	}
	relations, err := tx.ListRelationsOf(room.NID, targets)
	if err != nil || len(relations) == 0 {
		return nil, err
	}
	if relations, err = s.withoutDue(tx, room, relations); err != nil {
		return nil, err
	}
	byTarget := make(map[id.EventID][]storage.Relation)
	for _, rel := range relations {
		byTarget[rel.Target] = append(byTarget[rel.Target], rel)
	}
	out := make(map[id.EventID][]byte, len(byTarget))
	for target, rels := range byTarget {
		bundle, err := s.bundle(tx, view, room, senders[target], rels, r)
		if err != nil {
			return nil, err
		}
		if len(bundle) > 0 {
			out[target] = mustObject(bundle)
		}
	}
	return out, nil
}

// bundle aggregates the relations of one event; they come oldest first.
func (s *Server) bundle(tx *storage.Tx, view *View, room *storage.Room, sender string, rels []storage.Relation, r Reader) (map[string]any, error) {
	var edit, lastInThread *storage.Relation
	var threadCount int
	var participated bool
	var references []storage.EventNID
	for i := range rels {
		rel := &rels[i]
		switch rel.RelType {
		case "m.replace":
			// spec: client-server-api/modules/event_replacements.md#validity-of-replacement-events
			if string(rel.Sender) == sender {
				edit = rel
			}
		case "m.thread":
			lastInThread = rel
			threadCount++
			participated = participated || rel.Sender == r.User
		case "m.reference":
			references = append(references, rel.Event)
		}
	}
	out := map[string]any{}
	inner := r
	inner.Bundle = false
	if edit != nil {
		raw, err := s.renderOne(tx, view, room, edit.Event, inner)
		if err != nil {
			return nil, err
		}
		out["m.replace"] = raw
	}
	if lastInThread != nil {
		inner.Bundle = true // the thread's newest event is shown as edited
		raw, err := s.renderOne(tx, view, room, lastInThread.Event, inner)
		if err != nil {
			return nil, err
		}
		out["m.thread"] = map[string]any{
			"latest_event": raw, "count": threadCount,
			"current_user_participated": participated || sender == string(r.User),
		}
	}
	if len(references) > 0 {
		rows, err := tx.ListEventsByNID(references)
		if err != nil {
			return nil, err
		}
		chunk := make([]map[string]any, 0, len(rows))
		for _, row := range rows {
			chunk = append(chunk, map[string]any{"event_id": row.ID})
		}
		out["m.reference"] = map[string]any{"chunk": chunk}
	}
	return out, nil
}

func (s *Server) renderOne(tx *storage.Tx, view *View, room *storage.Room, nid storage.EventNID, r Reader) (json.RawMessage, error) {
	row, err := tx.GetEventByNID(nid)
	if err != nil {
		return nil, err
	}
	out, err := s.Render(tx, view, room, []storage.Event{row}, r)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}
