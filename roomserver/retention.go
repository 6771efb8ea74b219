package roomserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"math"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/storage"
)

// Retention is for how long messages are kept: events that are no state, from when they say that they were
// sent. A room says so in m.room.retention (MSC1763), within the bounds of the server.
type Retention struct {
	Enabled bool
	// Default is for rooms that don't say; 0 is for ever.
	Default time.Duration
	// Min and Max bound what rooms say, and Max the default too; 0 is no bound.
	Min, Max time.Duration
	// Interval is how often messages are taken away whose time is up.
	Interval time.Duration
}

const (
	retentionEvent = "m.room.retention"
	// maxLifetime is the longest that a room may name, in milliseconds.
	maxLifetime = 1<<53 - 1
	// retentionRooms is how many rooms are looked at together, and expireBatch how many messages leave in
	// one transaction, as others wait for it.
	retentionRooms = 100
	expireBatch    = 50
	// retentionLease is for how long other processes leave it to the one that takes messages away.
	retentionLease = time.Minute
)

// Lifetime is for how long the messages of a room are kept that says this; 0 is for ever.
func (r Retention) Lifetime(content []byte) time.Duration {
	life := r.Default
	if named, ok := lifetimeIn(content, "max_lifetime"); ok {
		life = named
	}
	if shortest, ok := lifetimeIn(content, "min_lifetime"); ok && life > 0 {
		life = max(life, shortest)
	}
	if r.Max > 0 && (life == 0 || life > r.Max) {
		life = r.Max
	}
	if life > 0 {
		life = max(life, r.Min)
	}
	return life
}

// lifetimeIn is a lifetime that a room names, in milliseconds; a nonsensical one is as good as none.
func lifetimeIn(content []byte, key string) (time.Duration, bool) {
	v := gjson.GetBytes(content, key)
	if v.Type != gjson.Number || v.Num != float64(v.Int()) || v.Int() < 0 || v.Int() > maxLifetime {
		return 0, false
	}
	const most = math.MaxInt64 / int64(time.Millisecond)
	return time.Duration(min(max(v.Int(), 1), most)) * time.Millisecond, true // 0 would be for ever
}

// Retention is for how long messages are kept here.
func (s *Server) Retention() Retention { return s.retention }

// Horizon is the time, in milliseconds since 1970, up to which the messages of a room are due; nobody
// is shown them any more, whether they have left yet or not. 0 is for a room that keeps them.
func (s *Server) Horizon(tx *storage.Tx, room *storage.Room) (int64, error) {
	if !s.retention.Enabled || room.Root == 0 {
		return 0, nil
	}
	e, err := s.stateEvent(tx, room, room.Root, retentionEvent, "")
	if err != nil {
		return 0, err
	}
	var content []byte
	if e != nil {
		content = e.Content()
	}
	life := s.retention.Lifetime(content)
	if life == 0 {
		return 0, nil
	}
	return s.now() - life.Milliseconds(), nil
}

// Due says whether an event is a message that nobody is shown any more.
func (v *View) Due(e *storage.Event) (bool, error) {
	if v.horizon == nil {
		horizon, err := v.s.Horizon(v.tx, &v.Room)
		if err != nil {
			return false, err
		}
		v.horizon = &horizon
	}
	return e.Due(*v.horizon), nil
}

// withoutDue leaves out the relations of events that are due.
func (s *Server) withoutDue(tx *storage.Tx, room *storage.Room, relations []storage.Relation) ([]storage.Relation, error) {
	horizon, err := s.Horizon(tx, room)
	if err != nil || horizon == 0 || len(relations) == 0 {
		return relations, err
	}
	nids := make([]storage.EventNID, len(relations))
	for i := range relations {
		nids[i] = relations[i].Event
	}
	rows, err := tx.ListEventsByNID(nids)
	if err != nil {
		return nil, err
	}
	due := make(map[storage.EventNID]bool)
	for i := range rows {
		due[rows[i].NID] = rows[i].Due(horizon)
	}
	return slices.DeleteFunc(relations, func(r storage.Relation) bool { return due[r.Event] }), nil
}

// Expired is how many messages have left since the process started.
func (s *Server) Expired() int64 { return s.expired.Load() }

// ExpireMessages takes away messages whose time is up, every interval until ctx is done. Among several
// processes one does it at a time; another goes on where it has ended.
func (s *Server) ExpireMessages(ctx context.Context) {
	if !s.retention.Enabled {
		return
	}
	holder := rand.Text()
	tick := time.NewTicker(min(s.retention.Interval, retentionLease))
	defer tick.Stop()
	for {
		if err := s.expireAll(ctx, holder); err != nil && ctx.Err() == nil {
			s.log.Error("take messages away whose time is up", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// expireAll goes through all rooms, if it is time for that and no other process does.
func (s *Server) expireAll(ctx context.Context, holder string) error {
	for {
		r, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.Retention, error) { return tx.GetRetention() })
		if err != nil || !s.mayExpire(r, holder) {
			return err
		}
		rooms, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.Room, error) { return tx.ListRoomsAfter(r.Room, retentionRooms) })
		if err != nil {
			return err
		}
		mine := false
		err = s.db.Write(ctx, func(tx *storage.Tx) error {
			now, err := tx.GetRetention()
			if mine = err == nil && s.mayExpire(now, holder) && now.Room == r.Room; !mine {
				return err
			}
			now.Holder, now.Until = holder, s.now()+retentionLease.Milliseconds()
			return tx.UpdateRetention(now)
		})
		if err != nil || !mine {
			return err
		}
		for i := range rooms {
			if err := s.expireRoom(ctx, rooms[i].ID); err != nil {
				return err
			}
		}
		done := storage.Retention{Next: s.now() + s.retention.Interval.Milliseconds()}
		if len(rooms) > 0 {
			done = storage.Retention{Room: rooms[len(rooms)-1].NID, Holder: holder, Until: s.now() + retentionLease.Milliseconds()}
		}
		if err := s.db.Write(ctx, func(tx *storage.Tx) error { return tx.UpdateRetention(done) }); err != nil || len(rooms) == 0 {
			return err
		}
	}
}

func (s *Server) mayExpire(r storage.Retention, holder string) bool {
	return r.Next <= s.now() && (r.Holder == "" || r.Holder == holder || r.Until <= s.now())
}

// expireRoom takes away the messages of a room whose time is up, some in each transaction.
func (s *Server) expireRoom(ctx context.Context, room id.RoomID) error {
	var from storage.DuePlace
	for {
		some, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (bool, error) {
			r, err := tx.GetRoom(room)
			if err != nil {
				return false, err
			}
			rows, err := s.due(tx, &r, from, 1)
			return len(rows) > 0, err
		})
		if err != nil || !some {
			return err
		}
		after, more, gone := from, false, int64(0)
		err = s.db.Write(ctx, func(tx *storage.Tx) error {
			after, more, gone = from, false, 0
			r, err := tx.LockRoom(room)
			if err != nil {
				return err
			}
			rows, err := s.due(tx, &r, from, expireBatch)
			if err != nil {
				return err
			}
			for i := range rows {
				left, err := s.expire(tx, &r, rows[i].Event)
				if err != nil {
					return err
				}
				if left {
					gone++
				}
				after = rows[i].DuePlace
			}
			more = len(rows) == expireBatch
			return nil
		})
		if err != nil || !more {
			s.expired.Add(gone)
			return err
		}
		s.expired.Add(gone)
		from = after
	}
}

// due are messages of a room whose time is up. In a room whose members are not known yet all that
// came is going to be judged again, and stays until then.
func (s *Server) due(tx *storage.Tx, room *storage.Room, after storage.DuePlace, limit int) ([]storage.DueEvent, error) {
	horizon, err := s.Horizon(tx, room)
	if err != nil || horizon == 0 || room.Partial != 0 {
		return nil, err
	}
	return tx.ListDue(room.NID, horizon, after, limit)
}

// expire takes away the text of a message. What names it goes on to find it in the DAG. An event that none
// follows yet is redacted instead: whoever follows it may ask for it. A redaction stays as long as what
// it redacts, which may yet come.
func (s *Server) expire(tx *storage.Tx, room *storage.Room, row storage.Event) (left bool, err error) {
	e, err := parseEvent(room.Version, row)
	if err != nil {
		s.log.Error("a message cannot be taken away", "event", row.ID, "error", err)
		return false, nil
	}
	if e.StateKey() != nil {
		return false, nil
	}
	if isExtremity(room, row.NID) {
		e.Redact()
		if redacted := e.PDU.JSON(); !bytes.Equal(redacted, row.JSON) {
			if err := tx.UpdateEventText(row.NID, redacted); err != nil {
				return false, err
			}
		}
		if err := tx.DeleteSearch(row.NID); err != nil {
			return false, err
		}
		return false, tx.DeleteRelation(row.NID)
	}
	if e.Type() == spec.MRoomRedaction {
		target, err := tx.GetEvent(redactsOf(room.Version, e))
		missing, err := notFound(err)
		if err != nil || missing || target.Room == room.NID && !target.Expired {
			return false, err
		}
	}
	return true, tx.ExpireEvent(row.NID, skeleton(row.JSON))
}

// skeleton is what of an event's text holds the DAG together.
func skeleton(text []byte) []byte {
	out := []byte{'{'}
	for _, key := range []string{"auth_events", "depth", "prev_events", "room_id", "type"} {
		if v := gjson.GetBytes(text, key); v.Exists() {
			if len(out) > 1 {
				out = append(out, ',')
			}
			out = append(append(append(out, '"'), key...), '"', ':')
			out = append(out, v.Raw...)
		}
	}
	return append(out, '}')
}

func isExtremity(room *storage.Room, nid storage.EventNID) bool {
	return slices.ContainsFunc(room.Extremities, func(x storage.Extremity) bool { return x.NID == nid })
}
