package roomserver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/signedjson"
	"parley/roomserver/rules"
	"parley/roomserver/state"
	"parley/storage"
)

// ErrRejected says that an event breaks the rules where it stands. It is kept, so that it
// need not be judged again, and has no effect.
var ErrRejected = errors.New("the event is rejected")

// MissingError says which events must be known before one can be judged.
type MissingError struct {
	// Auth are auth events, Prev previous events that we don't have, or, of the latter, have
	// only as outliers.
	Auth, Prev []id.EventID
}

// Error says how many are missing.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%d auth events and %d previous events are missing", len(e.Auth), len(e.Prev))
}

// maxAuthEvents bounds the auth events of an event.
//
// spec: rooms/v12.md#event-format-1
const maxAuthEvents = 10

// Parse reads an event of another server in the format of a room's version. An event whose
// content does not match its hash comes out redacted. Signatures are the caller's business.
//
// spec: server-server-api.md#checks-performed-on-receipt-of-a-pdu
func Parse(version id.RoomVersion, raw []byte) (pdu gomatrixserverlib.PDU, err error) {
	// The library takes in events that it panics on later, when it can't redact or name them.
	defer func() {
		if recover() != nil {
			pdu, err = nil, matrixerr.New(matrixerr.BadJSON, "The event does not have the format of room version %s.", version)
		}
	}()
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(version))
	if err != nil {
		return nil, matrixerr.New(matrixerr.UnsupportedRoomVersion, "Room version %q is not supported.", version)
	}
	if len(raw) > maxEventBytes {
		return nil, matrixerr.New(matrixerr.TooLarge, "The event is larger than %d bytes.", maxEventBytes)
	}
	pdu, err = v.NewEventFromUntrustedJSON(exact(raw))
	if err != nil && !longInBytes(version, pdu, err) {
		return nil, matrixerr.New(matrixerr.BadJSON, "The event does not have the format of room version %s.", version)
	}
	if room := pdu.RoomID(); pdu.EventID() == "" || room.String() == "" { // in old versions the sender names the event
		return nil, matrixerr.New(matrixerr.BadJSON, "The event has no ID or no room.")
	}
	if pdu.Type() == spec.MRoomCreate && v.PrivilegedCreators() {
		gomatrixserverlib.CreatorsFromCreateEvent(pdu)
	}
	if signedjson.KeyTwice(pdu.JSON()) {
		return nil, matrixerr.New(matrixerr.BadJSON, "The event has a key twice.")
	}
	// To the library null is as good as nothing.
	fields := gjson.GetManyBytes(pdu.JSON(), "type", "content", "state_key")
	if fields[0].Type != gjson.String || !fields[1].IsObject() || fields[2].Exists() && fields[2].Type != gjson.String {
		return nil, matrixerr.New(matrixerr.BadJSON, "The event's type, content or state key is not what it must be.")
	}
	if len(pdu.PrevEventIDs()) > maxPrevEvents || len(pdu.AuthEventIDs()) > maxAuthEvents+1 {
		return nil, matrixerr.New(matrixerr.BadJSON, "The event names too many previous or auth events.")
	}
	if pdu.Depth() < 0 || pdu.Depth() > maxDepth {
		return nil, matrixerr.New(matrixerr.BadJSON, "The event has a depth that none can have.")
	}
	return pdu, nil
}

// longInBytes says whether all that is wrong with an event is that its type or state key has more
// than 255 bytes, but not characters. Servers that are older than the rule have made such events in
// the versions before 11, and whoever leaves them out has other rooms than all others.
//
// spec: client-server-api/index.md#size-limits
func longInBytes(version id.RoomVersion, pdu gomatrixserverlib.PDU, err error) bool {
	var invalid gomatrixserverlib.EventValidationError
	return pdu != nil && !redactsInContent(version) && errors.As(err, &invalid) && invalid.Persistable
}

// Receive takes in an event of another server, whose format and signatures were checked: it
// judges it by its auth events, by the state before it, and by the current state, and gives
// it its place in the room. An event that is known already is no error. A [MissingError] says
// what must be received first.
//
// spec: server-server-api.md#checks-performed-on-receipt-of-a-pdu
func (s *Server) Receive(ctx context.Context, pdu gomatrixserverlib.PDU) error {
	return s.receive(ctx, pdu, nil)
}

// ReceiveAt is Receive for an event some of whose previous events can't be had: before is
// what another server says was the room's state before it, as the IDs of events that were
// given to ReceiveOutliers.
func (s *Server) ReceiveAt(ctx context.Context, pdu gomatrixserverlib.PDU, before []id.EventID) error {
	if before == nil {
		before = []id.EventID{}
	}
	return s.receive(ctx, pdu, before)
}

func (s *Server) receive(ctx context.Context, pdu gomatrixserverlib.PDU, before []id.EventID) error {
	rejected := false
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		room, err := tx.LockRoom(id.RoomID(pdu.RoomID().String()))
		if missing, err := notFound(err); err != nil {
			return err
		} else if missing {
			return matrixerr.New(matrixerr.NotFound, "This room is not known to this server.")
		}
		w := &work{tx: tx, room: room}
		rejected, err = s.accept(w, pdu, before)
		if err != nil {
			return err
		}
		if err := s.dismissGuests(w); err != nil {
			return err
		}
		return w.finish()
	})
	if err == nil && rejected {
		err = ErrRejected
	}
	return err
}

// accept judges an event and writes it with what it is found to be.
func (s *Server) accept(w *work, pdu gomatrixserverlib.PDU, before []id.EventID) (rejected bool, err error) {
	e := &event{storage.Event{ID: id.EventID(pdu.EventID()), Room: w.room.NID, JSON: pdu.JSON()}, pdu}
	known, err := w.known(e.ID)
	switch {
	case err != nil:
		return false, err
	case known == nil:
	case known.Room != w.room.NID:
		return false, matrixerr.New(matrixerr.BadJSON, "The event belongs to another room.")
	case known.Status != storage.Outlier:
		return known.Status == storage.Rejected, nil
	default:
		e.NID, e.RedactedBy = known.NID, known.RedactedBy
	}
	if pdu.Type() == spec.MRoomCreate && w.room.Root != 0 {
		return false, matrixerr.New(matrixerr.BadJSON, "A room has one m.room.create event.")
	}

	ok, auth, err := s.passesAuthEvents(w, e)
	var missing, missingPrev *MissingError
	if err != nil && !errors.As(err, &missing) {
		return false, err
	}
	root, err := s.stateBefore(w, e, before)
	if missing != nil {
		if errors.As(err, &missingPrev) { // so that the caller can fetch all at once
			missing.Prev = missingPrev.Prev
			missing.Auth = append(missing.Auth, missingPrev.Auth...)
		}
		return false, missing
	}
	if err == nil && ok && w.room.Partial != 0 {
		root, err = s.withCited(w, e, root)
	}
	if err != nil {
		return false, err
	}
	e.Status = storage.Rejected
	if ok {
		if ok, err = s.passes(w, e, root, auth); err != nil {
			return false, err
		}
	}
	if ok {
		e.Status = storage.Accepted
		if w.room.Root != 0 && w.room.Root != root && w.room.Partial == 0 {
			if ok, err = s.passes(w, e, w.room.Root, auth); err != nil {
				return false, err
			}
			if !ok {
				e.Status = storage.SoftFailed
			}
		}
		p, err := s.policyOf(w.tx, &w.room)
		if err != nil {
			return false, err
		}
		if !p.recommends(e.PDU) {
			e.Status = storage.SoftFailed
		}
	}
	if err := s.admit(w, e, root); err != nil {
		return false, err
	}
	if w.room.Partial != 0 && e.Status != storage.Accepted {
		err = w.tx.InsertDoubtfulEvent(w.room.NID, e.NID)
	}
	return e.Status == storage.Rejected, err
}

// authTuple is a place in the state that an event's rules ask for.
type authTuple = gomatrixserverlib.StateKeyTuple

// passesAuthEvents judges an event by the auth events that it names, which it gives.
//
// spec: rooms/v12.md#authorisation-rules
func (s *Server) passesAuthEvents(w *work, e *event) (bool, []*event, error) {
	var missing MissingError
	var auth []*event
	var pdus []gomatrixserverlib.PDU
	ok := true
	for _, authID := range e.AuthEventIDs() {
		a, err := s.knownParsed(w, id.EventID(authID))
		if err != nil {
			return false, nil, err
		}
		if a == nil {
			missing.Auth = append(missing.Auth, id.EventID(authID))
			continue
		}
		ok = ok && a.Room == w.room.NID && a.Status != storage.Rejected
		auth, pdus = append(auth, a), append(pdus, a.PDU)
	}
	if len(missing.Auth) > 0 {
		return false, nil, &missing
	}
	return ok && allowedBy(e.PDU, pdus), auth, nil
}

// allowedBy judges an event by its auth events, each of which must be in a place of its own in
// the state, which the rules ask for.
func allowedBy(e gomatrixserverlib.PDU, auth []gomatrixserverlib.PDU) bool {
	wanted := make(map[authTuple]bool)
	for _, t := range neededFor(e).Tuples() {
		wanted[t] = true
	}
	for _, a := range auth {
		if a.StateKey() == nil {
			return false
		}
		place := authTuple{EventType: a.Type(), StateKey: *a.StateKey()}
		if !wanted[place] {
			return false
		}
		wanted[place] = false
	}
	provider, err := gomatrixserverlib.NewAuthEvents(auth)
	return err == nil && rules.MayFollow(e, provider) == nil
}

// neededFor is what the rules ask of a state to judge an event.
func neededFor(e gomatrixserverlib.PDU) gomatrixserverlib.StateNeeded {
	return gomatrixserverlib.StateNeededForAuth([]gomatrixserverlib.PDU{e})
}

// passes judges an event by a state. By auth it is known to be allowed, and mostly these are
// what the state has, too.
func (s *Server) passes(w *work, e *event, root int64, auth []*event) (bool, error) {
	set, err := s.authSetOf(w.tx, &w.room, root, id.UserID(e.SenderID()), e.Type(), func() (gomatrixserverlib.StateNeeded, error) {
		return neededFor(e.PDU), nil
	})
	if err != nil {
		return false, err
	}
	same := len(set.events) == len(auth)
	for _, a := range auth {
		same = same && slices.ContainsFunc(set.events, func(b *event) bool { return a.NID == b.NID })
	}
	return same || rules.MayFollow(e.PDU, set.provider) == nil, nil
}

// stateBefore is what the states after an event's previous events come to; or, where before
// is given, what it lists.
func (s *Server) stateBefore(w *work, e *event, before []id.EventID) (int64, error) {
	if before != nil {
		return s.stateOf(w, before)
	}
	var missing MissingError
	var roots []int64
	for _, prev := range e.PrevEventIDs() {
		row, err := w.known(id.EventID(prev))
		if err != nil {
			return 0, err
		}
		// What was rejected as part of an auth chain has no state of its own.
		if row == nil || row.Room != w.room.NID || row.Status == storage.Outlier || row.Status == storage.Rejected && row.Root == 0 {
			missing.Prev = append(missing.Prev, id.EventID(prev))
			continue
		}
		if !slices.Contains(roots, row.Root) {
			roots = append(roots, row.Root)
		}
	}
	if len(missing.Prev) > 0 {
		return 0, &missing
	}
	if len(roots) == 0 { // the create event
		return 0, nil
	}
	return s.resolve(w.tx, &w.room, roots)
}

// stateOf makes a state of a list of state events.
func (s *Server) stateOf(w *work, events []id.EventID) (int64, error) {
	rows, err := w.tx.ListEvents(events)
	if err != nil {
		return 0, err
	}
	if len(rows) != len(events) {
		var missing MissingError
		there := make(map[id.EventID]bool, len(rows))
		for _, row := range rows {
			there[row.ID] = true
		}
		for _, e := range events {
			if !there[e] {
				missing.Auth = append(missing.Auth, e)
			}
		}
		return 0, &missing
	}
	entries := make([]state.Entry, 0, len(rows))
	for _, row := range rows {
		e, err := parseEvent(w.room.Version, row)
		if err != nil {
			return 0, err
		}
		if row.Room != w.room.NID || row.Status == storage.Rejected || e.StateKey() == nil {
			continue
		}
		entries = append(entries, state.Entry{Key: e.key(), NID: e.nid()})
	}
	root, err := s.tree.Set(w.tx, 0, entries)
	return int64(root), err
}

// admit writes an event that was judged, and moves the room's head if the event is part of
// the room from now on.
func (s *Server) admit(w *work, e *event, before int64) error {
	e.Root = before
	placed := e.NID != 0 // it was known as an outlier
	if placed {
		if err := w.tx.UpdateEventPlace(&e.Event); err != nil {
			return err
		}
		s.forget(w.tx, e.NID)
	} else if err := s.insert(w.tx, e); err != nil {
		return err
	}
	w.note(e)
	if e.StateKey() != nil && e.Status != storage.Rejected {
		if err := s.putState(w, e, before); err != nil {
			return err
		}
	}
	if e.Status != storage.Accepted {
		return nil
	}
	wanted, err := w.tx.DeleteMissingEvent(w.room.NID, e.ID)
	if err != nil {
		return err
	}
	if err := s.noteMissing(w, e); err != nil {
		return err
	}
	return s.appear(w, e, !wanted)
}

// appear has an accepted event do to others what it does, and others to it, and gives it its place in the timeline.
func (s *Server) appear(w *work, e *event, newest bool) error {
	if err := s.relate(w, e); err != nil {
		return err
	}
	if err := s.applyRedaction(w, e); err != nil {
		return err
	}
	if err := s.applyEarlierRedaction(w, e); err != nil {
		return err
	}
	return s.extend(w, e, newest)
}

// noteMissing remembers which previous events of an event we don't have, so that one that
// comes later is known not to be a forward extremity.
func (s *Server) noteMissing(w *work, e *event) error {
	for _, prev := range e.PrevEventIDs() {
		row, err := w.known(id.EventID(prev))
		if err != nil {
			return err
		}
		if row == nil || row.Status == storage.Outlier {
			if err := w.tx.InsertMissingEvent(w.room.NID, id.EventID(prev), e.NID); err != nil {
				return err
			}
			w.gap = gapSize
		}
	}
	return nil
}

// gapSize is how many places of the timeline are left free before an event that follows some
// which we don't have, so that they can be filled in.
const gapSize = 1000

// extend moves the forward extremities and the current state on with an accepted event.
// newest says that no event that we know follows it.
func (s *Server) extend(w *work, e *event, newest bool) error {
	followed, err := s.followed(w, e)
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(w.room.Extremities), func(x storage.Extremity) bool {
		return followed[x.ID]
	})
	if newest {
		left = append(left, storage.Extremity{NID: e.NID, ID: e.ID})
	}
	w.room.Extremities = left
	w.room.Depth = max(w.room.Depth, e.Depth())
	w.dirty = true
	root, err := s.stateAfter(w)
	if err != nil {
		return err
	}
	return s.place(w, e, root)
}

// maxFollowed bounds the walk back through events that are not part of the room.
const maxFollowed = 1000

// followed are the events that an event follows: its previous events, and where one of them
// is soft failed or rejected, and so never was an extremity, those that it followed.
func (s *Server) followed(w *work, e *event) (map[id.EventID]bool, error) {
	out := make(map[id.EventID]bool)
	next := e.PrevEventIDs()
	for len(next) > 0 && len(out) < maxFollowed {
		var more []string
		for _, prev := range next {
			if out[id.EventID(prev)] {
				continue
			}
			out[id.EventID(prev)] = true
			row, err := w.known(id.EventID(prev))
			if err != nil {
				return nil, err
			} else if row == nil || row.Status != storage.SoftFailed && row.Status != storage.Rejected {
				continue
			}
			failed, err := s.knownParsed(w, id.EventID(prev))
			if err != nil {
				return nil, err
			}
			more = append(more, failed.PrevEventIDs()...)
		}
		next = more
	}
	return out, nil
}

// stateAfter is what the states at the forward extremities come to.
func (s *Server) stateAfter(w *work) (int64, error) {
	var roots []int64
	for _, x := range w.room.Extremities {
		row, err := w.known(x.ID)
		switch {
		case err != nil:
			return 0, err
		case row == nil:
			return 0, fmt.Errorf("extremity %s is not there", x.ID)
		case !slices.Contains(roots, row.Root):
			roots = append(roots, row.Root)
		}
	}
	slices.Sort(roots)
	return s.resolve(w.tx, &w.room, roots)
}

// ReceiveOutliers takes in events without a place in the DAG: auth chains, and the state at
// an event. They come in an order in which each follows its auth events; each is judged by
// those. What is known already stays as it is.
func (s *Server) ReceiveOutliers(ctx context.Context, room id.RoomID, pdus []gomatrixserverlib.PDU) error {
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		r, err := tx.LockRoom(room)
		if missing, err := notFound(err); err != nil {
			return err
		} else if missing {
			return matrixerr.New(matrixerr.NotFound, "This room is not known to this server.")
		}
		w := &work{tx: tx, room: r}
		for _, pdu := range pdus {
			if err := s.outlier(w, pdu); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Server) outlier(w *work, pdu gomatrixserverlib.PDU) error {
	e := &event{storage.Event{ID: id.EventID(pdu.EventID()), Room: w.room.NID, JSON: pdu.JSON(), Status: storage.Outlier}, pdu}
	if pdu.RoomID().String() != string(w.room.ID) {
		return matrixerr.New(matrixerr.BadJSON, "The event belongs to another room.")
	}
	known, err := w.known(e.ID)
	if err != nil || known != nil {
		return err
	}
	ok, _, err := s.passesAuthEvents(w, e)
	if err != nil {
		return err
	}
	if !ok {
		e.Status = storage.Rejected
	}
	if err := s.insert(w.tx, e); err != nil {
		return err
	}
	w.note(e)
	return nil
}

// AddRoom makes a room known that another server has, so that its events can be received.
// One that is known already is no error.
func (s *Server) AddRoom(ctx context.Context, room id.RoomID, version id.RoomVersion) error {
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		_, err := tx.GetRoom(room)
		missing, err := notFound(err)
		if err == nil && missing {
			_, err = tx.InsertRoom(room, version)
		}
		return err
	})
}
