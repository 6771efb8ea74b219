package roomserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"
	"golang.org/x/sync/errgroup"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

const (
	mRoomPolicy = "m.room.policy"
	// policyKey is the name of the key by which all policy servers sign.
	policyKey = "ed25519:policy_server"
	// maxSigned bounds the events of one request that a policy server has to sign, and how often it is
	// asked when the room changes in the meantime.
	maxSigned = 20
	// askedAtOnce bounds the events of another server about which a policy server is asked at the
	// same time.
	askedAtOnce = 8
)

// policy is the policy server of a room: who has to recommend events for it.
//
// spec: server-server-api.md#policy-servers
type policy struct {
	server id.ServerName
	key    ed25519.PublicKey
}

// policyOf is the policy server that a room uses, nil for none.
//
// spec: server-server-api.md#determining-if-a-policy-server-is-enabled-in-a-room
func (s *Server) policyOf(tx *storage.Tx, room *storage.Room) (*policy, error) {
	if room.Root == 0 {
		return nil, nil
	}
	e, err := s.stateEvent(tx, room, room.Root, mRoomPolicy, "")
	if err != nil || e == nil {
		return nil, err
	}
	f := gjson.GetManyBytes(e.Content(), "via", "public_keys.ed25519")
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(f[1].Str, "="))
	if err != nil || f[0].Type != gjson.String || len(key) != ed25519.PublicKeySize {
		return nil, nil
	}
	p := &policy{id.ServerName(f[0].Str), key}
	there := false
	if p.server == s.name {
		there, err = tx.HasLocalMember(room.NID)
	} else {
		there, err = tx.HasMemberOf(room.NID, p.server)
	}
	if err != nil || !there {
		return nil, err
	}
	return p, nil
}

// recommends says whether an event may go into the room as far as the policy server is
// concerned: it has signed it, or need not.
//
// spec: server-server-api.md#validating-policy-server-signatures
func (p *policy) recommends(pdu gomatrixserverlib.PDU) bool {
	if p == nil || pdu.Type() == mRoomPolicy && pdu.StateKeyEquals("") {
		return true
	}
	v, err := gomatrixserverlib.GetRoomVersion(pdu.Version())
	if err != nil {
		return false
	}
	text, err := v.RedactEventJSON(pdu.JSON())
	return err == nil && gomatrixserverlib.VerifyJSON(string(p.server), policyKey, p.key, text) == nil
}

// unsignedError says that a policy server has to sign an event before it can be sent.
type unsignedError struct {
	event  *event
	policy *policy
}

func (e *unsignedError) Error() string {
	return "the policy server has not signed " + string(e.event.ID)
}

// withPolicy does something that makes events of ours, which may have to be signed by a room's
// policy server: outside the transaction, which is then run again.
func (s *Server) withPolicy(ctx context.Context, do func(signed []*event) error) error {
	var signed []*event
	for {
		err := do(signed)
		var need *unsignedError
		if !errors.As(err, &need) {
			return err
		}
		if len(signed) == maxSigned {
			return matrixerr.New(matrixerr.Unknown, "The room changes faster than its policy server signs.").WithStatus(503)
		}
		pdu, err := s.askPolicy(ctx, need.policy, need.event.PDU)
		if err != nil {
			return err
		}
		row := need.event.Event
		row.JSON = pdu.JSON()
		signed = append(signed, &event{row, pdu})
	}
}

// askPolicy has a policy server sign an event, and gives the event with its signature.
//
// spec: server-server-api.md#asking-for-a-policy-server-signature-on-an-event
func (s *Server) askPolicy(ctx context.Context, p *policy, pdu gomatrixserverlib.PDU) (gomatrixserverlib.PDU, error) {
	if s.remote == nil || p.server == s.name {
		return nil, matrixerr.New(matrixerr.Forbidden, "The room's policy server %s can't be asked from here.", p.server)
	}
	signatures, err := s.remote.SignByPolicy(ctx, p.server, pdu.JSON())
	if matrixerr.CodeOf(err) != "" {
		return nil, err
	}
	if err != nil {
		s.log.InfoContext(ctx, "a policy server could not be asked", "server", p.server, "room", pdu.RoomID().String(), "error", err)
		return nil, matrixerr.New(matrixerr.Unknown, "The room's policy server could not be asked.").WithStatus(502)
	}
	unsigned := matrixerr.New(matrixerr.Forbidden, "The room's policy server did not sign the event.")
	signature := signatures[p.server][policyKey]
	if signature == "" || len(signature) > 2*ed25519.SignatureSize {
		return nil, unsigned
	}
	version := id.RoomVersion(pdu.Version())
	text, err := addSignatures(version, pdu.JSON(), p.server, map[string]string{policyKey: signature})
	if err != nil {
		return nil, err
	}
	out, err := Parse(version, text)
	if err != nil {
		return nil, err
	}
	if !p.recommends(out) {
		return nil, unsigned
	}
	return out, nil
}

// recommended has the policy server of a room sign those of other servers' events that it has not
// signed yet. Those that it does not sign stay as they are, and will be soft failed.
func (s *Server) recommended(ctx context.Context, roomID id.RoomID, pdus []gomatrixserverlib.PDU) error {
	p, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (*policy, error) {
		room, err := tx.GetRoom(roomID)
		if err != nil {
			return nil, err
		}
		return s.policyOf(tx, &room)
	})
	if err != nil || p == nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(askedAtOnce)
	for i, pdu := range pdus {
		if pdu == nil || p.recommends(pdu) {
			continue
		}
		g.Go(func() error {
			signed, err := s.askPolicy(ctx, p, pdu)
			if err != nil {
				s.log.InfoContext(ctx, "a policy server does not recommend an event", "server", p.server, "room", roomID, "event", pdu.EventID(), "reason", err)
				return nil
			}
			pdus[i] = signed
			return nil
		})
	}
	return g.Wait()
}

// approved is the form of an event of ours in which it goes into the room: as it was built, or as the
// policy server signed it before. beside says that the room has gone on since.
func (s *Server) approved(w *work, d *draft, e *event) (approved *event, beside bool, err error) {
	p, err := s.policyOf(w.tx, &w.room)
	if err != nil || p.recommends(e.PDU) {
		return e, false, err
	}
	if len(w.signed) == 0 {
		return nil, false, &unsignedError{e, p}
	}
	signed := *w.signed[0]
	w.signed = w.signed[1:]
	same := signed.Type() == e.Type() && signed.SenderID() == e.SenderID() && bytes.Equal(signed.Content(), d.Content) &&
		(d.StateKey == nil) == (signed.StateKey() == nil) && (d.StateKey == nil || signed.StateKeyEquals(*d.StateKey))
	if !same || !p.recommends(signed.PDU) {
		return nil, false, &unsignedError{e, p}
	}
	beside = !slices.Equal(signed.PrevEventIDs(), e.PrevEventIDs()) || !slices.Equal(signed.AuthEventIDs(), e.AuthEventIDs())
	return &signed, beside, nil
}

// appendBeside takes in an event of ours that was built before others came.
func (s *Server) appendBeside(w *work, e *event) error {
	refused := matrixerr.New(matrixerr.Forbidden, "The room's rules do not allow this event.")
	ok, auth, err := s.passesAuthEvents(w, e)
	if err != nil {
		return err
	}
	root, err := s.stateBefore(w, e, nil)
	for _, at := range []int64{root, w.room.Root} {
		if err == nil && ok {
			ok, err = s.passes(w, e, at, auth)
		}
	}
	if err != nil {
		return err
	}
	if !ok {
		return refused
	}
	e.Room, e.Status = w.room.NID, storage.Accepted
	return s.admit(w, e, root)
}
