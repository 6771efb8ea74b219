package roomserver

import (
	"context"
	"encoding/json"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

// SendRequest is an event that a local user wants in a room.
type SendRequest struct {
	Room     id.RoomID
	Sender   id.UserID
	Type     string
	StateKey *string // nil for a message
	Content  []byte  // a JSON object
	Txn      Txn
	// TS is the time that an application service gives its event, in milliseconds; 0 means now.
	TS int64
}

// Send puts an event into a room and gives its ID; the same transaction again gives the
// same ID. A state event that says what is so already gives the one that says it.
//
// spec: client-server-api/index.md#sending-events-to-a-room
func (s *Server) Send(ctx context.Context, r SendRequest) (id.EventID, error) {
	switch {
	case r.Type == spec.MRoomCreate:
		return "", matrixerr.New(matrixerr.BadState, "A room has one m.room.create event, made with the room.")
	case r.Type == spec.MRoomRedaction && r.StateKey == nil:
		return s.Redact(ctx, RedactRequest{Room: r.Room, Sender: r.Sender, Event: id.EventID(gjson.GetBytes(r.Content, "redacts").Str),
			Content: r.Content, Txn: r.Txn})
	case r.StateKey != nil && r.Type == spec.MRoomCanonicalAlias:
		if err := s.checkCanonicalAlias(ctx, r); err != nil {
			return "", err
		}
	}
	if r.StateKey != nil && r.Type == spec.MRoomMember {
		return s.sendMember(ctx, r)
	}
	return s.write(ctx, r.Room, r.Sender, r.Txn, func(w *work) (*event, error) {
		d := &draft{Room: r.Room, Sender: r.Sender, Type: r.Type, StateKey: r.StateKey, TS: r.TS}
		var err error
		if d.Content, err = canonicalContent(w.room.Version, r.Content); err != nil {
			return nil, err
		}
		if r.StateKey != nil {
			same, err := s.sameState(w, d)
			if err != nil || same != nil {
				return same, err
			}
		}
		if err := checkRelation(w, d); err != nil {
			return nil, err
		}
		return s.append(w, d, r.Txn)
	})
}

// checkRelation refuses what must not relate to an event: an annotation that its sender has made already, and a thread that
// would begin in the middle of another relation.
func checkRelation(w *work, d *draft) error {
	relates := gjson.GetBytes(d.Content, `m\.relates_to`)
	if d.StateKey != nil {
		return nil
	}
	switch target := id.EventID(relates.Get("event_id").Str); relates.Get("rel_type").Str {
	case annotation:
		return refuseSecondAnnotation(w, d, target, relates.Get("key").Str)
	case "m.thread":
		return refuseThread(w, target)
	}
	return nil
}

// spec: client-server-api/modules/threading.md#validation-of-mthread-relationships
func refuseThread(w *work, root id.EventID) error {
	e, err := w.tx.GetEvent(root)
	if missing, err := notFound(err); missing || err != nil {
		return err
	}
	if e.Room == w.room.NID && gjson.GetBytes(e.JSON, `content.m\.relates_to.rel_type`).Exists() {
		return matrixerr.New(matrixerr.Unknown, "A thread cannot begin at an event that relates to another.").WithStatus(400)
	}
	return nil
}

const annotation = "m.annotation"

// spec: client-server-api/modules/event_annotations.md#avoiding-duplicate-annotations
func refuseSecondAnnotation(w *work, d *draft, target id.EventID, key string) error {
	before, err := w.tx.ListRelatedBy(d.Sender, w.room.NID, target, annotation, d.Type)
	if err != nil {
		return err
	}
	for _, e := range before {
		if gjson.GetBytes(e.JSON, `content.m\.relates_to.key`).Str == key {
			return matrixerr.New(matrixerr.Duplicate, "You have made this annotation already.")
		}
	}
	return nil
}

// sameState is the current state event that says just what d says, if there is one.
func (s *Server) sameState(w *work, d *draft) (*event, error) {
	e, err := s.stateEvent(w.tx, &w.room, w.room.Root, d.Type, *d.StateKey)
	if err != nil || e == nil || string(e.Content()) != string(d.Content) || e.RedactedBy != 0 {
		return nil, err
	}
	if id.UserID(e.SenderID()) != d.Sender {
		return nil, nil
	}
	return e, nil
}

// write is the frame of every change of one room by a local user: the transaction ID first,
// then the lock, the change, and the head.
func (s *Server) write(ctx context.Context, room id.RoomID, sender id.UserID, txn Txn, change func(*work) (*event, error)) (id.EventID, error) {
	var sent id.EventID
	transaction := func(tx *storage.Tx, signed []*event) error {
		if txn.DeviceNID != 0 {
			before, ok, err := tx.GetSendTxn(txn.DeviceNID, txn.key())
			if err != nil {
				return err
			}
			if ok {
				sent = before
				return nil
			}
		}
		w, err := s.lock(tx, room)
		if err != nil {
			return err
		}
		w.signed = signed
		e, err := change(w)
		if err != nil {
			return err
		}
		if e != nil {
			sent = e.ID
		}
		if err := s.dismissGuests(w); err != nil {
			return err
		}
		return w.finish()
	}
	err := s.withPolicy(ctx, func(signed []*event) error {
		return s.db.Write(ctx, func(tx *storage.Tx) error { return transaction(tx, signed) })
	})
	return sent, err
}

// RedactRequest asks for an event's content to be taken away.
type RedactRequest struct {
	Room   id.RoomID
	Sender id.UserID
	Event  id.EventID
	Reason string
	// Content is the redaction's content where a client gave one; Reason is added to it.
	Content []byte
	Txn     Txn
	// Suspended says that the sender's account is, so that only their own event may be redacted.
	Suspended bool
}

// Redact takes an event's content away: one's own, or anybody's with the power to.
//
// spec: client-server-api/index.md#redactions
func (s *Server) Redact(ctx context.Context, r RedactRequest) (id.EventID, error) {
	content := map[string]json.RawMessage{}
	if len(r.Content) > 0 {
		if err := json.Unmarshal(r.Content, &content); err != nil {
			return "", matrixerr.New(matrixerr.BadJSON, "The content is not a JSON object.")
		}
	}
	if r.Reason != "" {
		content["reason"] = appendCanonicalString(nil, r.Reason)
	}
	return s.write(ctx, r.Room, r.Sender, r.Txn, func(w *work) (*event, error) {
		if err := s.checkRedaction(w, &r); err != nil {
			return nil, err
		}
		d := &draft{Room: r.Room, Sender: r.Sender, Type: spec.MRoomRedaction}
		if redactsInContent(w.room.Version) {
			content["redacts"] = appendCanonicalString(nil, string(r.Event))
		} else {
			delete(content, "redacts")
			d.Redacts = r.Event
		}
		raw, err := json.Marshal(content)
		if err != nil {
			return nil, err
		}
		if d.Content, err = canonicalContent(w.room.Version, raw); err != nil {
			return nil, err
		}
		return s.append(w, d, r.Txn)
	})
}

// checkRedaction refuses a redaction of what is another user's by one without the power for it. One who
// has the power may also redact what is not known here: other servers may have it.
func (s *Server) checkRedaction(w *work, r *RedactRequest) error {
	target, err := w.tx.GetEvent(r.Event)
	missing, err := notFound(err)
	if err != nil {
		return err
	}
	elsewhere := matrixerr.New(matrixerr.NotFound, "The event to redact is not in this room.")
	if !missing {
		if target.Room != w.room.NID {
			return elsewhere
		}
		missing = target.Expired
	}
	if !missing {
		victim, err := parseEvent(w.room.Version, target)
		if err != nil {
			return err
		}
		if id.UserID(victim.SenderID()) == r.Sender {
			return nil
		}
	}
	if r.Suspended {
		// spec: client-server-api/index.md#account-suspension
		return matrixerr.New(matrixerr.UserSuspended, "You can redact only what is your own while your account is suspended.")
	}
	p, err := s.powers(w.tx, &w.room, w.room.Root)
	switch {
	case err != nil:
		return err
	case p.of(r.Sender) >= p.levels.Redact:
		return nil
	case missing:
		return elsewhere
	}
	return matrixerr.New(matrixerr.Forbidden, "You don't have the power to redact other users' events here.")
}
