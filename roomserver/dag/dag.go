// Package dag draws a part of a room's DAG, as SVG for people and as DOT for graphviz: the
// forks, the forward extremities, which events were rejected or soft-failed, and what each
// resolution of a fork took and dropped, and why. It draws what it is given; what the
// events are and what became of them is for roomserver to say.
//
// spec: server-server-api.md#pdus
package dag

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"parley/internal/id"
)

// Status is what the node makes of an event.
type Status int

const (
	// Accepted events are part of the room.
	Accepted Status = iota
	// SoftFailed events are part of the DAG, but nobody is shown them.
	SoftFailed
	// Rejected events broke the rules where they stand.
	Rejected
	// Outlier events have no place in the DAG yet.
	Outlier
)

func (s Status) String() string {
	return [...]string{"accepted", "soft-failed", "rejected", "outlier"}[s]
}

// Event is an event to draw.
type Event struct {
	ID   id.EventID
	Prev []id.EventID
	Type string
	// StateKey is nil for an event that is not a state event.
	StateKey *string
	Sender   id.UserID
	Time     time.Time
	Depth    int64
	Status   Status
	// Extremity marks a forward extremity.
	Extremity bool
	// Marked draws attention to the event: it was asked about.
	Marked bool
	// Summary says in a few words what the event does: "ban", "@bob:b 50".
	Summary string
	// Resolution is what became of the conflict that the event merges, if there was one.
	Resolution []Verdict
}

// Verdict is what a resolution did with an event that was in question.
type Verdict struct {
	ID id.EventID
	// Text names the event for who doesn't see it in the drawing: "m.room.topic of @bob:b".
	Text string
	// Taken says that the event is part of the resolved state.
	Taken bool
	// Reason says why it was dropped.
	Reason string
}

// Graph is a part of a room's DAG.
type Graph struct {
	Room   id.RoomID
	Events []Event
}

// row is a line of the drawing: an event, or several messages in a row that are folded into
// one line.
type row struct {
	Event
	folded int // how many more events it stands for
	lane   int
	// missing says that some previous events are outside the drawing.
	missing bool
	edges   []edge // to the rows before it
}

// edge leads from a row down to a later one, in a lane of its own between the two.
type edge struct {
	from, lane int
}

// layout puts the events into rows, the oldest first, and gives branches their lanes.
type layout struct {
	rows  []row
	lanes int
}

// foldFrom is from how many events on a drawing is folded: messages that follow one another
// and are of no further interest take one line.
const foldFrom = 60

func newLayout(g Graph) layout {
	events := sorted(g.Events)
	if len(events) >= foldFrom {
		return place(fold(events))
	}
	rows := make([]row, len(events))
	for i, e := range events {
		rows[i] = row{Event: e}
	}
	return place(rows)
}

// sorted puts each event after those that it follows; else by depth, time and ID.
func sorted(events []Event) []Event {
	index := make(map[id.EventID]int, len(events))
	for i, e := range events {
		index[e.ID] = i
	}
	waits := make([]int, len(events))
	after := make([][]int, len(events))
	for i, e := range events {
		for _, p := range distinct(e.Prev) {
			if j, ok := index[p]; ok && j != i {
				waits[i]++
				after[j] = append(after[j], i)
			}
		}
	}
	var ready []int
	for i := range events {
		if waits[i] == 0 {
			ready = append(ready, i)
		}
	}
	less := func(a, b int) int {
		x, y := &events[a], &events[b]
		return cmp.Or(cmp.Compare(x.Depth, y.Depth), x.Time.Compare(y.Time), cmp.Compare(x.ID, y.ID))
	}
	out := make([]Event, 0, len(events))
	done := make([]bool, len(events))
	for len(ready) > 0 {
		next := slices.MinFunc(ready, less)
		ready = slices.DeleteFunc(ready, func(i int) bool { return i == next })
		out = append(out, events[next])
		done[next] = true
		for _, i := range after[next] {
			if waits[i]--; waits[i] == 0 {
				ready = append(ready, i)
			}
		}
	}
	for i := range events { // a circle, which no room has
		if !done[i] {
			out = append(out, events[i])
		}
	}
	return out
}

func distinct(ids []id.EventID) []id.EventID {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids)
}

// fold makes one row of messages that follow one another and that nothing else follows.
func fold(events []Event) []row {
	followers := make(map[id.EventID]int)
	for _, e := range events {
		for _, p := range distinct(e.Prev) {
			followers[p]++
		}
	}
	plain := func(e *Event) bool {
		return e.StateKey == nil && e.Status == Accepted && !e.Extremity && !e.Marked && len(e.Prev) == 1 && followers[e.ID] == 1
	}
	var rows []row
	last := make(map[id.EventID]int) // the row whose last event this is
	for _, e := range events {
		if plain(&e) {
			if i, ok := last[e.Prev[0]]; ok && plain(&rows[i].Event) {
				delete(last, rows[i].ID)
				// The row takes the place of its newest event, and keeps the way up of its oldest.
				e.Prev = rows[i].Prev
				rows[i].Event = e
				rows[i].folded++
				last[e.ID] = i
				continue
			}
		}
		last[e.ID] = len(rows)
		rows = append(rows, row{Event: e})
	}
	return rows
}

// place gives each row its lane. A branch keeps its lane; where a row has several
// followers, all but the first get a new one, and the first is one that was accepted.
func place(rows []row) layout {
	index := make(map[id.EventID]int, len(rows))
	for i := range rows {
		index[rows[i].ID] = i
	}
	followers := make([][]int, len(rows))
	for i := range rows {
		for _, p := range distinct(rows[i].Prev) {
			if j, ok := index[p]; ok && j < i {
				followers[j] = append(followers[j], i)
			} else {
				rows[i].missing = true
			}
		}
	}
	l := layout{rows: rows}
	var taken []bool
	take := func() int {
		lane := slices.Index(taken, false)
		if lane < 0 {
			lane = len(taken)
			taken = append(taken, false)
		}
		taken[lane] = true
		return lane
	}
	for i := range rows {
		r := &rows[i]
		if len(r.edges) == 0 {
			r.lane = take()
		} else {
			r.lane = slices.MinFunc(r.edges, func(a, b edge) int { return cmp.Compare(a.lane, b.lane) }).lane
			for _, e := range r.edges {
				taken[e.lane] = e.lane == r.lane
			}
		}
		if len(followers[i]) == 0 {
			taken[r.lane] = false
		}
		slices.SortStableFunc(followers[i], func(a, b int) int { return cmp.Compare(rows[a].Status, rows[b].Status) })
		for n, f := range followers[i] {
			lane := r.lane
			if n > 0 {
				lane = take()
			}
			rows[f].edges = append(rows[f].edges, edge{i, lane})
		}
		l.lanes = max(l.lanes, len(taken))
	}
	return l
}

// short is enough of an event's ID to find it by.
func short(event id.EventID) string {
	if len(event) > 9 {
		return string(event[:9])
	}
	return string(event)
}

// label is what a row says of its event.
func (r *row) label() string {
	if r.folded > 0 {
		return fmt.Sprintf("%d messages", r.folded+1)
	}
	s := r.Type
	if r.StateKey != nil && *r.StateKey != "" {
		s += " of " + *r.StateKey
	}
	if r.Summary != "" {
		s += ": " + r.Summary
	}
	return s
}

func (v *Verdict) label() string {
	if v.Taken {
		return "took " + short(v.ID) + "  " + v.Text
	}
	s := "dropped " + short(v.ID) + "  " + v.Text
	if v.Reason != "" {
		s += ": " + v.Reason
	}
	return s
}
