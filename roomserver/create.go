package roomserver

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"golang.org/x/sync/errgroup"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

// StateEvent is a state event that a new room is to begin with.
type StateEvent struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// CreateRequest is a new room as its creator wants it.
type CreateRequest struct {
	Creator id.UserID
	Version id.RoomVersion // empty: the server's default
	// Visibility "public" puts the room into the directory.
	Visibility string
	// Preset is empty for the one that Visibility suggests.
	Preset          string
	AliasLocalpart  string
	Name, Topic     *string
	Invite          []id.UserID
	InviteAddresses []AddressInvite
	IsDirect        bool
	CreationContent map[string]json.RawMessage
	InitialState    []StateEvent
	PowerLevels     map[string]json.RawMessage
}

// preset is what a preset means.
//
// spec: client-server-api/index.md#post_matrixclientv3createroom
type preset struct {
	joinRule, historyVisibility, guestAccess string
	inviteLevel                              int
	trusted                                  bool
}

var presets = map[string]preset{
	"private_chat":         {joinRule: spec.Invite, historyVisibility: "shared", guestAccess: "can_join"},
	"trusted_private_chat": {joinRule: spec.Invite, historyVisibility: "shared", guestAccess: "can_join", trusted: true},
	"public_chat":          {joinRule: spec.Public, historyVisibility: "shared", guestAccess: "forbidden", inviteLevel: 50},
}

// Create makes a room, whole or not at all.
//
// spec: client-server-api/index.md#creation
func (s *Server) Create(ctx context.Context, r CreateRequest) (id.RoomID, error) {
	if r.Version == "" {
		r.Version = s.defaultVersion
	}
	if _, ok := Versions()[r.Version]; !ok {
		return "", matrixerr.New(matrixerr.UnsupportedRoomVersion, "Room version %q is not supported.", r.Version)
	}
	if r.Preset == "" {
		r.Preset = "private_chat"
		if r.Visibility == "public" {
			r.Preset = "public_chat"
		}
	}
	if _, ok := presets[r.Preset]; !ok {
		return "", matrixerr.New(matrixerr.InvalidParam, "There is no preset %q.", r.Preset)
	}
	if r.Visibility != "" && r.Visibility != "public" && r.Visibility != "private" {
		return "", matrixerr.New(matrixerr.InvalidParam, `The visibility must be "public" or "private".`)
	}
	for _, e := range r.InitialState {
		if e.Type == spec.MRoomCreate || e.Type == spec.MRoomMember {
			return "", matrixerr.New(matrixerr.InvalidParam, "initial_state must not have %s events.", e.Type)
		}
	}
	switch n := len(r.InviteAddresses); {
	case n > 0 && s.identity == nil:
		return "", errNoIdentity
	case n > maxInvitedAddresses:
		return "", matrixerr.New(matrixerr.InvalidParam, "invite_3pid must not have more than %d addresses.", maxInvitedAddresses)
	}
	var room id.RoomID
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		w, err := s.create(tx, &r)
		if err != nil {
			return err
		}
		room = w.room.ID
		return w.finish()
	})
	if err != nil {
		return "", err
	}
	s.inviteOthers(ctx, room, &r)
	s.inviteAddresses(ctx, room, &r)
	return room, nil
}

// inviteContent is what the invites to a new room say beside the membership.
func (r *CreateRequest) inviteContent() map[string]any {
	if r.IsDirect {
		return map[string]any{"is_direct": true}
	}
	return map[string]any{}
}

// inviteOthers invites the users of other servers to a new room, which is there already: that
// one of them can't be invited does not undo it.
func (s *Server) inviteOthers(ctx context.Context, room id.RoomID, r *CreateRequest) {
	seen := make(map[id.UserID]bool)
	var g errgroup.Group
	g.SetLimit(fetchesAtOnce)
	for _, user := range r.Invite {
		if seen[user] || s.local(user) {
			continue
		}
		seen[user] = true
		g.Go(func() error {
			err := s.inviteAfar(ctx, &MemberRequest{Room: room, Sender: r.Creator, Target: user, Content: r.inviteContent()})
			if err != nil {
				s.log.WarnContext(ctx, "a user could not be invited to a new room", "room", room, "user", user, "error", err)
			}
			return nil
		})
	}
	_ = g.Wait() // its functions return no errors
}

// create makes a room within a transaction; the caller finishes the work.
func (s *Server) create(tx *storage.Tx, r *CreateRequest) (*work, error) {
	w, err := s.createEvent(tx, r)
	if err != nil {
		return nil, err
	}
	if _, err := s.appendMember(w, r.Creator, r.Creator, spec.Join, nil, Txn{}); err != nil {
		return nil, roomStateError(err)
	}
	initial, err := s.initialEvents(tx, w, r)
	if err != nil {
		return nil, err
	}
	for _, e := range initial {
		if _, err := s.appendState(w, r.Creator, e); err != nil {
			return nil, roomStateError(err)
		}
	}
	if err := tx.UpdateRoomPublished(w.room.NID, r.Visibility == "public"); err != nil {
		return nil, err
	}
	seen := map[id.UserID]bool{r.Creator: true}
	for _, user := range r.Invite {
		if seen[user] || !s.local(user) {
			continue
		}
		seen[user] = true
		if _, err := s.invite(w, r.Creator, user, r.inviteContent()); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// roomStateError says that it was the wanted state that the rules refused.
func roomStateError(err error) error {
	var e *matrixerr.Error
	if errors.As(err, &e) && e.Code == matrixerr.Forbidden {
		return matrixerr.New(matrixerr.InvalidRoomState, "The room would not allow its own initial state: %s", e.Message)
	}
	return err
}

// createEvent begins a room with its m.room.create event.
func (s *Server) createEvent(tx *storage.Tx, r *CreateRequest) (*work, error) {
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(r.Version))
	if err != nil {
		return nil, err
	}
	content := maps.Clone(r.CreationContent)
	if content == nil {
		content = map[string]json.RawMessage{}
	}
	if err := setFields(content, map[string]any{"room_version": r.Version}); err != nil {
		return nil, err
	}
	delete(content, "creator")
	if !redactsInContent(r.Version) {
		// spec: rooms/v11.md#remove-the-creator-property-of-mroomcreate-events
		if err := setFields(content, map[string]any{"creator": r.Creator}); err != nil {
			return nil, err
		}
	}
	if v.PrivilegedCreators() && presets[r.Preset].trusted {
		if err := addCreators(content, r.Invite, r.Creator); err != nil {
			return nil, err
		}
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encode creation content: %w", err)
	}
	d := &draft{Sender: r.Creator, Type: spec.MRoomCreate, StateKey: new(string), TS: s.now()}
	if d.Content, err = canonicalContent(r.Version, raw); err != nil {
		return nil, err
	}
	if !v.DomainlessRoomIDs() {
		d.Room = id.RoomID("!" + rand.Text()[:18] + ":" + string(s.name))
	}
	e, err := s.build(&storage.Room{Version: r.Version}, d, nil, nil, 1)
	if err != nil {
		return nil, err
	}
	set, err := s.authSet(tx, &storage.Room{Version: r.Version}, 0, gomatrixserverlib.StateNeeded{})
	if err != nil {
		return nil, err
	}
	if err := allowed(e, set); err != nil {
		return nil, roomStateError(err)
	}
	if v.DomainlessRoomIDs() {
		d.Room = id.RoomID("!" + string(e.ID[1:]))
	}
	row, err := tx.InsertRoom(d.Room, r.Version)
	if err != nil {
		return nil, err
	}
	w := &work{tx: tx, room: row, dirty: true}
	if err := s.persist(w, e, 0); err != nil {
		return nil, err
	}
	w.room.Extremities, w.room.Depth = []storage.Extremity{{NID: e.NID, ID: e.ID}}, 1
	return w, s.place(w, e, e.Root)
}

// addCreators makes the invited users creators, beside those that are named.
func addCreators(content map[string]json.RawMessage, users []id.UserID, except id.UserID) error {
	var named []id.UserID
	if raw, ok := content["additional_creators"]; ok {
		if err := json.Unmarshal(raw, &named); err != nil {
			return matrixerr.New(matrixerr.BadJSON, "additional_creators must be a list of user IDs.")
		}
	}
	for _, u := range users {
		if u != except && !slices.Contains(named, u) {
			named = append(named, u)
		}
	}
	if len(named) == 0 {
		return nil
	}
	return setFields(content, map[string]any{"additional_creators": named})
}

// initialEvents are the events that follow the creator's join, in the specified order.
func (s *Server) initialEvents(tx *storage.Tx, w *work, r *CreateRequest) ([]StateEvent, error) {
	p := presets[r.Preset]
	levels, err := s.initialPowerLevels(r, p)
	if err != nil {
		return nil, err
	}
	events := []StateEvent{levels}
	if r.AliasLocalpart != "" {
		alias, err := s.newAlias(tx, r.AliasLocalpart, w.room.ID, r.Creator)
		if err != nil {
			return nil, err
		}
		events = append(events, stateEvent(spec.MRoomCanonicalAlias, map[string]any{"alias": alias}))
	}
	events = append(events,
		stateEvent(spec.MRoomJoinRules, map[string]any{"join_rule": p.joinRule}),
		stateEvent(spec.MRoomHistoryVisibility, map[string]any{"history_visibility": p.historyVisibility}))
	if p.guestAccess != "forbidden" { // which is what no event means
		events = append(events, stateEvent(spec.MRoomGuestAccess, map[string]any{"guest_access": p.guestAccess}))
	}
	events = append(events, r.InitialState...)
	if r.Name != nil && *r.Name != "" {
		events = append(events, stateEvent(spec.MRoomName, map[string]any{"name": *r.Name}))
	}
	if r.Topic != nil && *r.Topic != "" {
		events = append(events, stateEvent(spec.MRoomTopic, map[string]any{"topic": *r.Topic,
			"m.topic": map[string]any{"m.text": []any{map[string]any{"body": *r.Topic, "mimetype": "text/plain"}}}}))
	}
	// What comes later takes the place of what came earlier, which is then not sent at all,
	// but for the power levels, without which nothing could be.
	type place struct{ eventType, key string }
	last := make(map[place]int)
	for i, e := range events {
		last[place{e.Type, e.StateKey}] = i
	}
	var out []StateEvent
	for i, e := range events {
		if last[place{e.Type, e.StateKey}] == i || e.Type == spec.MRoomPowerLevels {
			out = append(out, e)
		}
	}
	return out, nil
}

func (s *Server) initialPowerLevels(r *CreateRequest, p preset) (StateEvent, error) {
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(r.Version))
	if err != nil {
		return StateEvent{}, err
	}
	users := map[id.UserID]int{}
	tombstone := 100
	if v.PrivilegedCreators() {
		tombstone = 150
	} else {
		users[r.Creator] = 100
		if p.trusted {
			for _, u := range r.Invite {
				users[u] = 100
			}
		}
	}
	content := map[string]json.RawMessage{}
	if err := setFields(content, map[string]any{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50,
		"ban": 50, "kick": 50, "redact": 50, "invite": p.inviteLevel,
		"events": map[string]int{
			spec.MRoomName: 50, spec.MRoomAvatar: 50, spec.MRoomCanonicalAlias: 50,
			spec.MRoomPowerLevels: 100, spec.MRoomHistoryVisibility: 100, spec.MRoomEncryption: 100,
			"m.room.server_acl": 100, "m.room.tombstone": tombstone,
		},
	}); err != nil {
		return StateEvent{}, err
	}
	maps.Copy(content, r.PowerLevels)
	raw, err := json.Marshal(content)
	return StateEvent{Type: spec.MRoomPowerLevels, Content: raw}, err
}

// appendState appends a state event by one of our users.
func (s *Server) appendState(w *work, sender id.UserID, e StateEvent) (*event, error) {
	if len(e.Content) == 0 || e.Content[0] != '{' {
		return nil, matrixerr.New(matrixerr.BadJSON, "The content of a state event must be an object.")
	}
	content, err := canonicalContent(w.room.Version, e.Content)
	if err != nil {
		return nil, err
	}
	return s.append(w, &draft{Room: w.room.ID, Sender: sender, Type: e.Type, StateKey: &e.StateKey, Content: content}, Txn{})
}

// stateEvent is a state event with an empty state key and a content of ours.
func stateEvent(eventType string, content map[string]any) StateEvent {
	return StateEvent{Type: eventType, Content: mustObject(content)}
}

// mustObject encodes an object that we made of plain values, which always can be.
func mustObject(content map[string]any) json.RawMessage {
	raw, err := json.Marshal(content)
	if err != nil {
		return json.RawMessage("{}")
	}
	return raw
}

func setFields(content map[string]json.RawMessage, fields map[string]any) error {
	for name, value := range fields {
		raw, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("encode %s: %w", name, err)
		}
		content[name] = raw
	}
	return nil
}
