package roomserver

import (
	"github.com/matrix-org/gomatrixserverlib"

	"parley/internal/id"
	"parley/storage"
)

// past is what one transaction has looked up of the events that others name. Those that come
// together name each other, and the same auth events over and over.
type past map[id.EventID]named

// named is an event that another one names; the zero value stands for one that is not there.
type named struct {
	row    *storage.Event
	parsed *event // nil until it is asked for
}

// maxKnown bounds the events that a transaction remembers: it may take in a large room.
const maxKnown = 8192

// readPast looks up, at once, all that some events name, and whether they are known themselves.
func (w *work) readPast(pdus []gomatrixserverlib.PDU) error {
	var ids []id.EventID
	w.past = make(past)
	for _, pdu := range pdus {
		if pdu == nil {
			continue
		}
		for _, list := range [][]string{{pdu.EventID()}, pdu.PrevEventIDs(), pdu.AuthEventIDs()} {
			for _, name := range list {
				if _, ok := w.past[id.EventID(name)]; !ok {
					w.past[id.EventID(name)] = named{}
					ids = append(ids, id.EventID(name))
				}
			}
		}
	}
	rows, err := w.tx.ListEvents(ids)
	for i := range rows {
		w.past[rows[i].ID] = named{row: &rows[i]}
	}
	return err
}

// known is an event that may be named, nil if it is not there.
func (w *work) known(name id.EventID) (*storage.Event, error) {
	if n, ok := w.past[name]; ok {
		return n.row, nil
	}
	row, err := w.tx.GetEvent(name)
	if missing, err := notFound(err); err != nil || missing {
		return nil, err
	}
	w.keep(name, named{row: &row})
	return &row, nil
}

// knownParsed is known with its parsed form.
func (s *Server) knownParsed(w *work, name id.EventID) (*event, error) {
	row, err := w.known(name)
	if err != nil || row == nil {
		return nil, err
	}
	if n := w.past[name]; n.parsed != nil {
		return n.parsed, nil
	}
	e := &event{Event: *row}
	if cached, ok := s.events.lru.Get(row.NID); ok {
		e.PDU = cached.PDU
	} else if e, err = parseEvent(w.room.Version, *row); err != nil {
		return nil, err
	} else if e.StateKey() != nil && e.Status == storage.Accepted {
		s.remember(w.tx, e)
	}
	w.keep(name, named{&e.Event, e})
	return e, nil
}

// note remembers an event as it was just written.
func (w *work) note(e *event) { w.keep(e.ID, named{&e.Event, e}) }

// keep remembers what is there.
func (w *work) keep(name id.EventID, n named) {
	if w.past == nil || len(w.past) >= maxKnown {
		w.past = make(past)
	}
	w.past[name] = n
}
