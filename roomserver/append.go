package roomserver

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/internal/words"
	"parley/roomserver/state"
	"parley/storage"
)

// Txn names a client's request, so that the same request again becomes the same event.
type Txn struct {
	// DeviceNID is the device that asked. 0 means a request without a transaction ID.
	DeviceNID int64
	// ID is the transaction ID, shown to that device in the event's unsigned data.
	ID string
	// Scope tells apart requests of one device that may use one ID twice: the endpoint.
	//
	// spec: client-server-api/index.md#transaction-identifiers
	Scope string
}

// key names the request in half the bytes of a hash, as clients choose the names and they
// are kept for ever.
func (t Txn) key() []byte {
	sum := sha256.Sum256([]byte(t.Scope + "\x1f" + t.ID))
	return sum[:16]
}

// work is one transaction's change of one room: the head as it will be, and what the
// change does to memberships.
type work struct {
	tx   *storage.Tx
	room storage.Room
	// stripped is what invited users are shown, by user.
	stripped map[id.UserID][]byte
	// relay says that other servers hear of what is placed although none of our users sent
	// it: it was handed to us for that, by one who could not or must not send it themselves.
	relay bool
	// gap is how many positions to leave free before the next event, for history to be filled in.
	gap int
	// arriving says that a server in the room has let us in with what is placed: it tells the
	// others, and who else is in the room is no news to anybody.
	arriving bool
	past     past
	// signed are events that a policy server has signed, to be sent in this order.
	signed []*event
	// anew says that what was known of the room before is old.
	anew bool
	// presumed are servers that are said to be in the room, before we know of members of theirs.
	presumed []id.ServerName
	// guestsGo says that the room has ceased to want guests.
	guestsGo bool
	dirty    bool
}

// lock begins a change of a room that must be there, and have a state.
func (s *Server) lock(tx *storage.Tx, room id.RoomID) (*work, error) {
	r, err := tx.LockRoom(room)
	if missing, err := notFound(err); err != nil {
		return nil, err
	} else if missing || r.Root == 0 {
		return nil, errUnknownRoom
	}
	return &work{tx: tx, room: r}, nil
}

// errUnknownRoom does not tell a room that is not there from one that is not one's own.
var errUnknownRoom = matrixerr.New(matrixerr.Forbidden, "You are not in this room, or it is not known to this server.")

// finish writes the room's head, once for all that was appended.
func (w *work) finish() error {
	if !w.dirty {
		return nil
	}
	return w.tx.UpdateRoomHead(&w.room)
}

// prepare builds an event of ours on the room's forward extremities, and judges it by the
// current state.
func (s *Server) prepare(w *work, d *draft) (*event, error) {
	if d.TS == 0 {
		d.TS = s.now()
	}
	if err := s.refuseCreators(w, d); err != nil {
		return nil, err
	}
	set, err := s.authFor(w.tx, &w.room, w.room.Root, d)
	if err != nil {
		return nil, err
	}
	auth, err := s.authLinks(&w.room, set)
	if err != nil {
		return nil, err
	}
	prev, err := s.prevLinks(w)
	if err != nil {
		return nil, err
	}
	// An event of another server may have the largest depth that there is.
	e, err := s.build(&w.room, d, prev, auth, min(w.room.Depth+1, maxDepth))
	if err != nil {
		return nil, err
	}
	return e, allowed(e, set)
}

// append builds an event of ours, judges it, and makes it the new head.
func (s *Server) append(w *work, d *draft, txn Txn) (*event, error) {
	e, err := s.prepare(w, d)
	if err != nil {
		return nil, err
	}
	e, beside, err := s.approved(w, d, e)
	if err != nil {
		return nil, err
	}
	e.DeviceNID, e.TxnID = txn.DeviceNID, txn.ID
	if beside {
		err = s.appendBeside(w, e)
	} else {
		err = s.persist(w, e, w.room.Root)
	}
	if err == nil && txn.DeviceNID != 0 {
		err = w.tx.InsertSendTxn(txn.DeviceNID, txn.key(), e.NID)
	}
	if err != nil || beside {
		return e, err
	}
	// The event follows all that it names; what was left out stays an extremity.
	left := w.room.Extremities[:max(0, len(w.room.Extremities)-maxPrevEvents)]
	w.room.Extremities = append(slices.Clone(left), storage.Extremity{NID: e.NID, ID: e.ID})
	w.room.Depth = e.Depth()
	w.dirty = true
	return e, s.place(w, e, e.Root)
}

// maxDepth is the largest integer that an event may have.
//
// spec: appendices.md#canonical-json
const maxDepth = 1<<53 - 1

// maxPrevEvents bounds the prev_events of an event; what is left out stays a forward
// extremity until the next.
//
// spec: rooms/v12.md#event-format-1
const maxPrevEvents = 20

func (s *Server) prevLinks(w *work) ([]link, error) {
	extremities := w.room.Extremities
	if len(extremities) > maxPrevEvents {
		extremities = extremities[len(extremities)-maxPrevEvents:]
	}
	links := make([]link, 0, len(extremities))
	for _, x := range extremities {
		if w.room.Version != "1" && w.room.Version != "2" {
			links = append(links, link{id: x.ID})
			continue
		}
		row, err := w.tx.GetEventByNID(x.NID)
		if err != nil {
			return nil, err
		}
		e, err := parseEvent(w.room.Version, row)
		if err != nil {
			return nil, err
		}
		l, err := linkTo(w.room.Version, e)
		if err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	return links, nil
}

// persist writes an accepted event and the state after it. before is the root of the state
// before it.
func (s *Server) persist(w *work, e *event, before int64) error {
	e.Room, e.Root, e.Status = w.room.NID, before, storage.Accepted
	if err := s.insert(w.tx, e); err != nil {
		return err
	}
	if e.StateKey() != nil {
		if err := s.putState(w, e, before); err != nil {
			return err
		}
		s.remember(w.tx, e)
	}
	if err := s.relate(w, e); err != nil {
		return err
	}
	if err := s.applyRedaction(w, e); err != nil {
		return err
	}
	return nil
}

// place makes root the room's current state, and gives the event that led to it its
// position: in the room's timeline, and in the memberships that it changed.
func (s *Server) place(w *work, e *event, root int64) error {
	others := w.room.Servers
	members, tally, err := s.moveState(w, root)
	if err != nil {
		return err
	}
	if w.anew {
		if tally == nil {
			tally = make(serverTally)
		}
		if err := w.unpresume(tally); err != nil {
			return err
		}
		for _, server := range w.presumed {
			tally.count(server, "", spec.Join)
		}
	}
	moves, err := w.moveServers(tally)
	if err != nil {
		return err
	}
	sender := id.UserID(e.SenderID())
	ours := (s.local(sender) && !w.arriving || w.relay) && (others > 0 || w.room.Servers > 0 || len(moves) > 0)
	var users, joined []id.UserID
	for i := range members {
		if w.arriving && !members[i].Local {
			continue
		}
		users = append(users, members[i].User)
		if members[i].Membership == spec.Join {
			joined = append(joined, members[i].User)
		}
	}
	moved, err := w.writeMembers(members)
	if err != nil {
		return err
	}
	room, gap := w.room.ID, w.gap
	w.gap = 0
	w.tx.OnPos(1+gap, func(first id.Pos) error {
		pos := first + id.Pos(gap)
		if err := w.tx.UpdateMembershipPos(e.Room, moved, pos); err != nil {
			return err
		}
		if err := w.placeServers(moves, pos); err != nil {
			return err
		}
		if ours {
			if err := w.tx.InsertOutgoing(e.Room, pos, e.NID); err != nil {
				return err
			}
		}
		w.tx.Notify(stream.Notice{Pos: pos, Kind: stream.Event, Room: room, User: sender, Users: users, Joined: joined,
			Away: ours || len(moves) > 0})
		return w.tx.InsertTimeline(e.Room, storage.Ord(pos), e.NID, root)
	})
	return nil
}

// writeMembers writes what users are to the room, for all who share the transaction to see, and gives those users:
// the position of that follows.
func (w *work) writeMembers(members []storage.Membership) ([]id.UserID, error) {
	users := make([]id.UserID, len(members))
	for i := range members {
		users[i] = members[i].User
		if err := w.tx.InsertMembership(&members[i]); err != nil {
			return nil, err
		}
	}
	return users, nil
}

// putState writes the state after a state event.
func (s *Server) putState(w *work, e *event, before int64) error {
	replaced, _, err := s.tree.Get(w.tx, state.Root(before), e.key())
	if err != nil {
		return err
	}
	root, err := s.tree.Set(w.tx, state.Root(before), []state.Entry{{Key: e.key(), NID: e.nid()}})
	if err != nil {
		return err
	}
	e.Root, e.Replaces = int64(root), storage.EventNID(replaced)
	return w.tx.UpdateEventPlace(&e.Event)
}

// moveState makes root the room's current state, and brings memberships and counts up to
// date with what that changes: one member for an ordinary join, many for a merge of forks.
// The rows that are to be written are returned.
func (s *Server) moveState(w *work, root int64) ([]storage.Membership, serverTally, error) {
	if root == w.room.Root {
		return nil, nil, nil
	}
	changes, err := s.tree.Diff(w.tx, state.Root(w.room.Root), state.Root(root))
	if err != nil {
		return nil, nil, err
	}
	var nids []storage.EventNID
	for _, c := range changes {
		for _, nid := range []state.EventNID{c.A, c.B} {
			if nid != 0 {
				nids = append(nids, storage.EventNID(nid))
			}
		}
	}
	events, err := s.loadEvents(w.tx, w.room.Version, nids)
	if err != nil {
		return nil, nil, err
	}
	var members []storage.Membership
	tally := make(serverTally)
	for _, c := range changes {
		before, after := events[storage.EventNID(c.A)], events[storage.EventNID(c.B)]
		m, err := s.moveMember(w, before, after)
		if err != nil {
			return nil, nil, err
		}
		if m != nil {
			members = append(members, *m)
			if !m.Local {
				tally.count(m.User.Server(), before.membership(), m.Membership)
			}
		}
	}
	w.room.Root = root
	w.dirty = true
	return members, tally, s.moveKind(w, changes, events)
}

// moveKind keeps what the room is up to date with changes of its state.
func (s *Server) moveKind(w *work, changes []state.Change, events map[storage.EventNID]*event) error {
	changed := w.room.Kind == nil
	for _, c := range changes {
		for _, nid := range []state.EventNID{c.A, c.B} {
			if e := events[storage.EventNID(nid)]; e != nil {
				switch e.Type() {
				case spec.MRoomGuestAccess:
					w.guestsGo = !guestsCanJoin(events[storage.EventNID(c.B)])
				case spec.MRoomCreate, spec.MRoomEncryption, spec.MRoomJoinRules, spec.MRoomHistoryVisibility:
					changed = true
				}
			}
		}
	}
	if !changed {
		return nil
	}
	kind, err := s.Kind(w.tx, &w.room)
	w.room.Kind = &kind
	return err
}

// Kind looks up what a room is in its current state.
func (s *Server) Kind(tx *storage.Tx, room *storage.Room) (kind storage.RoomKind, err error) {
	create, err := s.StateContent(tx, room, room.Root, spec.MRoomCreate, "")
	if err != nil {
		return kind, err
	}
	encryption, err := s.StateContent(tx, room, room.Root, spec.MRoomEncryption, "")
	if err != nil {
		return kind, err
	}
	joinRules, err := s.StateContent(tx, room, room.Root, spec.MRoomJoinRules, "")
	if err != nil {
		return kind, err
	}
	visibility, err := s.StateContent(tx, room, room.Root, spec.MRoomHistoryVisibility, "")
	return storage.RoomKind{
		Type:      gjson.GetBytes(create, "type").Str,
		Encrypted: encryption != nil,
		Open: gjson.GetBytes(joinRules, "join_rule").Str == spec.Public ||
			gjson.GetBytes(visibility, "history_visibility").Str == "world_readable",
	}, err
}

// moveMember brings the counts up to date with the change of one place of the state, and
// gives the membership to be written where it is a member's; either event may be nil.
func (s *Server) moveMember(w *work, before, after *event) (*storage.Membership, error) {
	either := after
	if either == nil {
		either = before
	}
	if either.Type() != spec.MRoomMember {
		return nil, nil
	}
	count := func(e *event, by int64) {
		switch {
		case e == nil:
		case e.membership() == spec.Join:
			w.room.Joined += by
		case e.membership() == spec.Invite:
			w.room.Invited += by
		}
	}
	count(before, -1)
	count(after, +1)
	user := id.UserID(*either.StateKey())
	m := &storage.Membership{User: user, Room: w.room.NID, Membership: spec.Leave, Local: s.local(user), Stripped: w.stripped[user]}
	if after == nil { // the state has nothing of the user any more
		return m, nil
	}
	m.Membership, m.Event = after.membership(), after.NID
	if !m.Local && m.Membership == spec.Join {
		m.Phrases = words.Phrases(user, gjson.GetBytes(after.Event.JSON, "content.displayname").Str)
	}
	if m.Local && m.Membership == spec.Invite && m.Stripped == nil && !w.arriving {
		var err error
		if m.Stripped, err = s.strippedState(w, id.UserID(after.SenderID())); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// relate notes what an event relates to.
//
// spec: client-server-api/index.md#forming-relationships-between-events
func (s *Server) relate(w *work, e *event) error {
	relates := gjson.GetBytes(e.Content(), `m\.relates_to`)
	target, relType := relates.Get("event_id").Str, relates.Get("rel_type").Str
	if target == "" || relType == "" || len(target) > id.MaxLength || len(relType) > id.MaxLength || e.StateKey() != nil {
		return nil
	}
	r := storage.Relation{Room: e.Room, Target: id.EventID(target), Event: e.NID, RelType: relType,
		Type: e.Type(), Sender: id.UserID(e.SenderID())}
	victim, err := w.tx.GetEvent(r.Target)
	if missing, err := notFound(err); err != nil {
		return err
	} else if !missing {
		if victim.Room != e.Room {
			return nil // an event of another room can't be related to
		}
		r.TargetSender = id.UserID(gjson.GetBytes(victim.JSON, "sender").Str)
	}
	return w.tx.InsertRelation(&r)
}

// redactsOf is the event that a redaction names: in its content from room version 11 on.
//
// spec: rooms/v11.md#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property
func redactsOf(version id.RoomVersion, e *event) id.EventID {
	if redactsInContent(version) {
		return id.EventID(e.field("redacts"))
	}
	return id.EventID(e.Redacts())
}

func redactsInContent(version id.RoomVersion) bool {
	return !slices.Contains([]id.RoomVersion{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10"}, version)
}

// applyRedaction blanks the event that a redaction names, if its sender may: the sender of
// the event itself, of the same server before room version 3, or somebody of the power to.
//
// spec: rooms/v3.md#handling-redactions
func (s *Server) applyRedaction(w *work, e *event) error {
	if e.Type() != spec.MRoomRedaction || e.StateKey() != nil {
		return nil
	}
	target, err := w.tx.GetEvent(redactsOf(w.room.Version, e))
	missing, err := notFound(err)
	if err != nil {
		return err
	}
	if missing {
		return w.tx.InsertEarlyRedaction(w.room.NID, redactsOf(w.room.Version, e), e.NID)
	}
	if target.Room != w.room.NID || target.RedactedBy != 0 || target.Expired {
		return nil
	}
	victim, err := parseEvent(w.room.Version, target)
	if err != nil {
		return err
	}
	return s.redactBy(w, victim, e)
}

// applyEarlierRedaction blanks an event whose redaction came before it.
func (s *Server) applyEarlierRedaction(w *work, victim *event) error {
	nids, err := w.tx.ListEarlyRedactions(w.room.NID, victim.ID)
	if err != nil {
		return err
	}
	for _, nid := range nids {
		row, err := w.tx.GetEventByNID(nid)
		if err != nil {
			return err
		}
		redaction, err := parseEvent(w.room.Version, row)
		if err != nil {
			return err
		}
		if err := s.redactBy(w, victim, redaction); err != nil {
			return err
		}
	}
	return nil
}

// redactBy blanks an event if whoever sent the redaction may.
func (s *Server) redactBy(w *work, victim, e *event) error {
	if victim.Type() == spec.MRoomCreate || victim.RedactedBy != 0 {
		return nil
	}
	may, err := s.mayRedact(w.tx, &w.room, w.room.Root, id.UserID(e.SenderID()), id.UserID(victim.SenderID()))
	if err != nil || !may {
		return err
	}
	return s.blank(w, victim, e.NID)
}

// blank replaces an event by its redacted form.
func (s *Server) blank(w *work, victim *event, by storage.EventNID) error {
	victim.RedactedBy = by
	victim.Redact()
	redacted := victim.PDU.JSON()
	if err := w.tx.UpdateEventRedacted(victim.NID, by, redacted); err != nil {
		return fmt.Errorf("redact %s: %w", victim.ID, err)
	}
	s.forget(w.tx, victim.NID)
	if victim.StateKey() != nil {
		w.tx.AfterCommit(func() { s.summaries.forget(s.now()) })
	}
	delete(w.past, victim.ID)
	if err := w.tx.DeleteSearch(victim.NID); err != nil {
		return fmt.Errorf("redact %s: %w", victim.ID, err)
	}
	return w.tx.DeleteRelation(victim.NID)
}

// forget drops an event from the cache, now and once more when the change is durable, as
// a reader may have cached the old form in between.
func (s *Server) forget(tx *storage.Tx, nid storage.EventNID) {
	s.events.lru.Remove(nid)
	tx.AfterCommit(func() {
		s.events.lru.Remove(nid)
		s.authSets.Purge()
	})
}
