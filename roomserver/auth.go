package roomserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/golang-lru/v2"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver/rules"
	"parley/roomserver/state"
	"parley/storage"
)

// authSet is what an event is judged by: the events of a state that its rules ask for.
type authSet struct {
	provider *gomatrixserverlib.AuthEvents
	events   []*event // in the order in which auth_events lists them
}

// authKey names the authSet of an event that is neither a membership nor of any other kind
// with rules of its own: sender and state decide it.
type authKey struct {
	root   int64
	sender id.UserID
}

// authCache keeps the sets of those who just sent: a state changes rarely, and a sender
// goes on sending. A set is only references to events.
type authCache = lru.Cache[authKey, *authSet]

const authCacheSize = 4096

func newAuthCache() (*authCache, error) {
	c, err := lru.New[authKey, *authSet](authCacheSize)
	if err != nil {
		return nil, fmt.Errorf("auth cache: %w", err)
	}
	return c, nil
}

// authFor selects from a state what the rules ask for, for an event to be built.
//
// spec: server-server-api.md#auth-events-selection
func (s *Server) authFor(tx *storage.Tx, room *storage.Room, root int64, d *draft) (*authSet, error) {
	return s.authSetOf(tx, room, root, d.Sender, d.Type, func() (gomatrixserverlib.StateNeeded, error) {
		v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(room.Version))
		if err != nil {
			return gomatrixserverlib.StateNeeded{}, err
		}
		needed, err := gomatrixserverlib.StateNeededForProtoEvent(&gomatrixserverlib.ProtoEvent{
			SenderID: string(d.Sender), Type: d.Type, StateKey: d.StateKey, Content: spec.RawJSON(d.Content), Version: v,
		})
		return needed, refusal(err)
	})
}

// authSetOf is what a state has of what the rules need to judge an event of a sender and a type.
func (s *Server) authSetOf(tx *storage.Tx, room *storage.Room, root int64, sender id.UserID, eventType string,
	needed func() (gomatrixserverlib.StateNeeded, error)) (*authSet, error) {
	cacheable := eventType != spec.MRoomMember && eventType != spec.MRoomCreate && eventType != spec.MRoomAliases
	key := authKey{root, sender}
	if cacheable {
		if set, ok := s.authSets.Get(key); ok {
			return set, nil
		}
	}
	places, err := needed()
	if err != nil {
		return nil, err
	}
	set, err := s.authSet(tx, room, root, places)
	if err == nil && cacheable {
		// The set holds events that this transaction may yet roll back.
		tx.AfterCommit(func() { s.authSets.Add(key, set) })
	}
	return set, err
}

func (s *Server) authSet(tx *storage.Tx, room *storage.Room, root int64, needed gomatrixserverlib.StateNeeded) (*authSet, error) {
	tuples := needed.Tuples()
	keys := make([]state.Key, len(tuples))
	for i, t := range tuples {
		keys[i] = state.Key{Type: t.EventType, StateKey: t.StateKey}
	}
	found, err := s.stateEvents(tx, room, root, keys)
	if err != nil {
		return nil, err
	}
	set := &authSet{}
	pdus := make([]gomatrixserverlib.PDU, 0, len(found))
	for _, key := range keys {
		if e := found[key]; e != nil {
			set.events = append(set.events, e)
			pdus = append(pdus, e.PDU)
		}
	}
	if set.provider, err = gomatrixserverlib.NewAuthEvents(pdus); err != nil {
		return nil, fmt.Errorf("auth events: %w", err)
	}
	return set, nil
}

// authLinks are the references that an event carries to its auth events. From room version
// 12 on the create event is not among them: the room ID names it.
//
// spec: rooms/v12.md#event-format
func (s *Server) authLinks(room *storage.Room, set *authSet) ([]link, error) {
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(room.Version))
	if err != nil {
		return nil, err
	}
	links := make([]link, 0, len(set.events))
	for _, e := range set.events {
		if v.DomainlessRoomIDs() && e.Type() == spec.MRoomCreate {
			continue
		}
		l, err := linkTo(room.Version, e)
		if err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	return links, nil
}

// allowed judges an event by a set. The error is one for whoever sent it.
//
// spec: server-server-api.md#authorisation-rules
func allowed(e *event, set *authSet) error {
	return refusal(rules.MayFollow(e.PDU, set.provider))
}

// refusal turns the rules' verdict into an error for whoever sent the event.
func refusal(err error) error {
	if err == nil {
		return nil
	}
	var not *gomatrixserverlib.NotAllowed
	if errors.As(err, &not) {
		return matrixerr.New(matrixerr.Forbidden, "%s", strings.TrimPrefix(not.Message, "eventauth: "))
	}
	var syntax *json.SyntaxError
	var typed *json.UnmarshalTypeError
	var bad gomatrixserverlib.BadJSONError
	if errors.As(err, &syntax) || errors.As(err, &typed) || errors.As(err, &bad) {
		return matrixerr.New(matrixerr.BadJSON, "The event's content has a field of the wrong type.")
	}
	return matrixerr.New(matrixerr.Forbidden, "The room's rules do not allow this event.")
}
