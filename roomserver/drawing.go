package roomserver

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver/dag"
	"parley/roomserver/state"
	"parley/storage"
)

// DAG is a part of a room's DAG, for drawing: up to limit events around the given ones, or
// the newest. Where an event merges a fork, the states before it are resolved once more, to
// say what was taken and dropped.
func (s *Server) DAG(ctx context.Context, room id.RoomID, around []id.EventID, limit int) (dag.Graph, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (dag.Graph, error) {
		g := dag.Graph{Room: room}
		head, err := tx.GetRoom(room)
		if missing, err := notFound(err); err != nil {
			return g, err
		} else if missing {
			return g, matrixerr.New(matrixerr.NotFound, "The room %s is not known to this server.", room)
		}
		rows, err := eventsAround(tx, &head, around, limit)
		if err != nil {
			return g, err
		}
		events := make([]*event, len(rows))
		for i, row := range rows {
			if events[i], err = parseEvent(head.Version, row); err != nil {
				return g, err
			}
		}
		for _, e := range events {
			d, err := s.drawn(tx, &head, e)
			if err != nil {
				return g, err
			}
			d.Marked = slices.Contains(around, d.ID)
			g.Events = append(g.Events, d)
		}
		return g, nil
	})
}

// eventsAround are the rows of up to limit events: those that came before and after each of
// the given ones, or the newest.
func eventsAround(tx *storage.Tx, head *storage.Room, around []id.EventID, limit int) ([]storage.Event, error) {
	if len(around) == 0 {
		return tx.ListRoomEvents(head.NID, math.MaxInt64, limit)
	}
	rows := make(map[storage.EventNID]storage.Event)
	share := max(1, limit/len(around))
	for _, event := range around {
		row, err := tx.GetEvent(event)
		if missing, err := notFound(err); err != nil {
			return nil, err
		} else if missing || row.Room != head.NID {
			return nil, matrixerr.New(matrixerr.NotFound, "The room has no event %s.", event)
		}
		after, err := tx.ListRoomEventsFrom(head.NID, row.NID, share-share/2)
		if err != nil {
			return nil, err
		}
		before, err := tx.ListRoomEvents(head.NID, row.NID, share-len(after))
		if err != nil {
			return nil, err
		}
		for _, row := range append(before, after...) {
			rows[row.NID] = row
		}
	}
	list := make([]storage.Event, 0, len(rows))
	for _, row := range rows {
		list = append(list, row)
	}
	slices.SortFunc(list, func(a, b storage.Event) int { return int(a.NID - b.NID) })
	return list, nil
}

// drawn is an event as the drawing wants it.
func (s *Server) drawn(tx *storage.Tx, head *storage.Room, e *event) (dag.Event, error) {
	d := dag.Event{
		ID: e.ID, Type: e.Type(), StateKey: e.StateKey(), Sender: id.UserID(e.SenderID()),
		Time: e.OriginServerTS().Time(), Depth: e.Depth(),
		Status: map[storage.EventStatus]dag.Status{
			storage.Accepted: dag.Accepted, storage.SoftFailed: dag.SoftFailed,
			storage.Rejected: dag.Rejected, storage.Outlier: dag.Outlier,
		}[e.Status],
		Extremity: slices.ContainsFunc(head.Extremities, func(x storage.Extremity) bool { return x.NID == e.NID }),
	}
	for _, p := range e.PrevEventIDs() {
		d.Prev = append(d.Prev, id.EventID(p))
	}
	var before *event
	if e.Replaces != 0 {
		events, err := s.loadEvents(tx, head.Version, []storage.EventNID{e.Replaces})
		if err != nil {
			return d, err
		}
		before = events[e.Replaces]
	}
	d.Summary = summary(before, e)
	if len(d.Prev) > 1 && e.Status != storage.Outlier {
		var err error
		if d.Resolution, err = s.explain(tx, head, d.Prev); err != nil {
			// Who draws a room may do so because something is wrong with it.
			d.Resolution = []dag.Verdict{{Text: "what is not known, as the states before can't be resolved", Reason: err.Error()}}
		}
	}
	return d, nil
}

// explain says what became of the events in conflict between the states after some events.
func (s *Server) explain(tx *storage.Tx, head *storage.Room, prev []id.EventID) ([]dag.Verdict, error) {
	rows, err := tx.ListEvents(prev)
	if err != nil {
		return nil, err
	}
	var roots []state.Root
	for _, row := range rows {
		if row.Room == head.NID && row.Status != storage.Outlier {
			roots = append(roots, state.Root(row.Root))
		}
	}
	verdicts, err := s.resolver.Explain(tx, graph{s, tx, head, roots}, head.Version, roots)
	if err != nil {
		return nil, err
	}
	var out []dag.Verdict
	for _, v := range verdicts {
		if !v.Disputed && v.Err == nil {
			continue
		}
		events, err := s.loadEvents(tx, head.Version, []storage.EventNID{storage.EventNID(v.NID)})
		if err != nil {
			return nil, err
		}
		e := events[storage.EventNID(v.NID)]
		d := dag.Verdict{ID: e.ID, Text: fmt.Sprintf("%s by %s", e.Type(), e.SenderID()), Taken: v.Won}
		if key := *e.StateKey(); key != "" {
			d.Text = fmt.Sprintf("%s of %s by %s", e.Type(), key, e.SenderID())
		}
		switch {
		case v.Won:
		case v.Err != nil:
			d.Reason = strings.TrimPrefix(v.Err.Error(), "eventauth: ")
		default:
			d.Reason = "another one came after it"
		}
		out = append(out, d)
	}
	return out, nil
}

// summary says in a few words what a state event does. before is what it replaced, or nil.
// Of messages it says nothing: their text is not for operators.
func summary(before, e *event) string {
	if e.StateKey() == nil {
		return ""
	}
	switch e.Type() {
	case spec.MRoomMember:
		return e.membership()
	case spec.MRoomJoinRules:
		return e.field("join_rule")
	case spec.MRoomHistoryVisibility:
		return e.field("history_visibility")
	case spec.MRoomPowerLevels:
		return powerChanges(before, e)
	}
	return ""
}

// powerChanges lists whose level an event changes, and which others.
func powerChanges(before, e *event) string {
	old, now := gjson.Parse("{}"), gjson.ParseBytes(e.Content())
	if before != nil {
		old = gjson.ParseBytes(before.Content())
	}
	var changes []string
	compare := func(what string, a, b gjson.Result) {
		if a.Raw == b.Raw {
			return
		}
		level := func(r gjson.Result) string {
			if !r.Exists() {
				return "unset"
			}
			return r.Raw
		}
		changes = append(changes, fmt.Sprintf("%s %s → %s", what, level(a), level(b)))
	}
	each := func(old, now gjson.Result) {
		was, is := old.Map(), now.Map()
		var names []string
		for name := range was {
			names = append(names, name)
		}
		for name := range is {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			if !was[name].IsObject() && !is[name].IsObject() {
				compare(name, was[name], is[name])
			}
		}
	}
	each(old.Get("users"), now.Get("users"))
	if before != nil { // the first sets all the rest, and that is not what one looks for
		each(old.Get("events"), now.Get("events"))
		each(old, now)
	}
	const most = 4
	if len(changes) > most {
		changes = append(changes[:most], fmt.Sprintf("and %d more", len(changes)-most))
	}
	return strings.Join(changes, ", ")
}
