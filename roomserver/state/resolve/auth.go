package resolve

import (
	"errors"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/roomserver/rules"
	"parley/roomserver/state"
)

var errNoCreate = errors.New("the room has no create event")

// authState is a room state as the authorisation rules look at it.
type authState map[state.Hash]gomatrixserverlib.PDU

var _ gomatrixserverlib.AuthEventProvider = authState(nil)

func (s authState) Create() (gomatrixserverlib.PDU, error)      { return s[createHash], nil }
func (s authState) JoinRules() (gomatrixserverlib.PDU, error)   { return s[joinRulesHash], nil }
func (s authState) PowerLevels() (gomatrixserverlib.PDU, error) { return s[powerLevelsHash], nil }
func (s authState) Valid() bool                                 { return true }

func (s authState) Member(user spec.SenderID) (gomatrixserverlib.PDU, error) {
	return s[state.Key{Type: spec.MRoomMember, StateKey: string(user)}.Hash()], nil
}

func (s authState) ThirdPartyInvite(token string) (gomatrixserverlib.PDU, error) {
	return s[state.Key{Type: spec.MRoomThirdPartyInvite, StateKey: token}.Hash()], nil
}

// needs are the keys whose events the authorisation rules look at for an event.
func needs(e *Event) []state.Hash {
	needed := gomatrixserverlib.StateNeededForAuth([]gomatrixserverlib.PDU{e.PDU})
	var hashes []state.Hash
	for _, k := range needed.Tuples() {
		hashes = append(hashes, state.Key{Type: k.EventType, StateKey: k.StateKey}.Hash())
	}
	return hashes
}

// loadBase looks up what unconflicted state has at the keys that the events need, and puts
// it into x.resolved, where it is not overwritten.
func (x *resolution) loadBase(events []*Event) error {
	var hashes []state.Hash
	for _, e := range events {
		for _, h := range needs(e) {
			if _, ok := x.resolved[h]; !ok && x.conflicted[h] == nil {
				hashes = append(hashes, h)
			}
		}
	}
	found, err := x.r.tree.GetHashes(x.nodes, x.roots[0], hashes)
	if err != nil {
		return err
	}
	var nids []state.EventNID
	for h, nid := range found {
		x.resolved[h] = nid
		nids = append(nids, nid)
	}
	_, err = x.load(nids)
	return err
}

// getCreate is the room's create event.
func (x *resolution) getCreate() (*Event, error) {
	if x.create == nil {
		create, err := x.events.GetCreate()
		if err != nil {
			return nil, err
		}
		if create == nil {
			return nil, errNoCreate
		}
		x.create = create
	}
	return x.create, nil
}

// allowed asks the authorisation rules whether an event may follow the resolved state. verdict
// is their answer, err that there is none.
//
// Where the state lacks a key, the event's own auth event is used, unless it was rejected.
// The room's create event is among the auth events of all, as said or as the room ID says.
func (x *resolution) allowed(e *Event, ownAuth bool) (verdict, err error) {
	s := make(authState)
	for _, h := range needs(e) {
		nid, ok := x.resolved[h]
		if !ok && ownAuth {
			if err := x.loadLinks([]state.EventNID{e.NID}); err != nil {
				return nil, err
			}
			auth := x.links[e.NID].Auth
			if err := x.loadLinks(auth); err != nil {
				return nil, err
			}
			for _, a := range auth {
				if x.links[a].Hash != h {
					continue
				}
				loaded, err := x.load([]state.EventNID{a})
				if err != nil {
					return nil, err
				}
				if len(loaded) > 0 && !loaded[0].Rejected {
					nid, ok = a, true
				}
			}
		}
		if !ok && h == createHash {
			create, err := x.getCreate()
			if err != nil {
				return nil, err
			}
			s[h] = create.PDU
			continue
		}
		if !ok {
			continue
		}
		loaded, err := x.load([]state.EventNID{nid})
		if err != nil {
			return nil, err
		}
		if len(loaded) == 0 {
			return nil, fmt.Errorf("event %d of a state does not exist", nid)
		}
		s[h] = loaded[0].PDU
	}
	return rules.Allowed(e.PDU, s), nil
}
