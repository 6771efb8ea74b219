package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/roomserver/state"
	"parley/storage"
)

// newAlias makes an alias of ours point to a room.
func (s *Server) newAlias(tx *storage.Tx, localpart string, room id.RoomID, creator id.UserID) (id.RoomAlias, error) {
	alias := id.NewRoomAlias(localpart, s.name)
	if _, err := id.ParseRoomAlias(string(alias)); err != nil || strings.ContainsAny(localpart, ": \t\n") {
		return "", matrixerr.New(matrixerr.InvalidParam, "%q can't be a room alias.", string(alias))
	}
	inserted, err := tx.InsertAlias(storage.Alias{Alias: alias, Room: room, Creator: creator})
	if err != nil {
		return "", err
	}
	if !inserted {
		return "", matrixerr.New(matrixerr.RoomInUse, "The alias %s is taken.", alias)
	}
	return alias, nil
}

// CreateAlias makes an alias of ours point to a room.
//
// spec: client-server-api/index.md#put_matrixclientv3directoryroomroomalias
func (s *Server) CreateAlias(ctx context.Context, user id.UserID, alias id.RoomAlias, room id.RoomID) error {
	if alias.Server() != s.name {
		return matrixerr.New(matrixerr.InvalidParam, "Aliases of this server end in :%s.", s.name)
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		_, err := tx.GetRoom(room)
		if missing, err := notFound(err); err != nil {
			return err
		} else if missing {
			return matrixerr.New(matrixerr.NotFound, "This room is not known to this server.")
		}
		inserted, err := tx.InsertAlias(storage.Alias{Alias: alias, Room: room, Creator: user})
		if err == nil && !inserted {
			return matrixerr.New(matrixerr.Unknown, "The alias %s is taken.", alias).WithStatus(409)
		}
		return err
	})
}

// DeleteAlias removes an alias: its creator's own, or any with the power to set the
// canonical alias of its room. One with that power also takes it out of what the room says
// that its aliases are.
//
// spec: client-server-api/index.md#delete_matrixclientv3directoryroomroomalias
func (s *Server) DeleteAlias(ctx context.Context, user id.UserID, alias id.RoomAlias) error {
	room, err := s.dropAlias(ctx, user, alias)
	if err != nil {
		return err
	}
	current, err := s.StateEvent(ctx, room, spec.MRoomCanonicalAlias, "", false, Reader{User: user})
	if err == nil {
		var named bool
		if current, named, err = withoutAlias(current, alias); err == nil && named {
			_, err = s.Send(ctx, SendRequest{Room: room, Sender: user, Type: spec.MRoomCanonicalAlias, StateKey: new(""), Content: current})
		}
	}
	var refused *matrixerr.Error
	if errors.As(err, &refused) {
		return nil // the room has none, or the user has no say in it
	}
	return err
}

// RemoveAlias removes an alias, whoever made it.
func (s *Server) RemoveAlias(ctx context.Context, alias id.RoomAlias) error {
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		_, err := tx.GetAlias(alias)
		if missing, err := notFound(err); err != nil {
			return err
		} else if missing {
			return matrixerr.New(matrixerr.NotFound, "There is no alias %s.", alias)
		}
		return tx.DeleteAlias(alias)
	})
}

// withoutAlias is the content of m.room.canonical_alias without an alias; named says that it
// was there.
func withoutAlias(content json.RawMessage, alias id.RoomAlias) (out json.RawMessage, named bool, err error) {
	fields := make(map[string]any)
	if err := json.Unmarshal(content, &fields); err != nil {
		return content, false, nil // not what it should be, and not ours to mend
	}
	if fields["alias"] == string(alias) {
		named = true
		delete(fields, "alias")
	}
	if alt, ok := fields["alt_aliases"].([]any); ok {
		kept := slices.DeleteFunc(slices.Clone(alt), func(a any) bool { return a == string(alias) })
		named = named || len(kept) < len(alt)
		fields["alt_aliases"] = kept
		if len(kept) == 0 {
			delete(fields, "alt_aliases")
		}
	}
	out, err = json.Marshal(fields)
	return out, named, err
}

// dropAlias removes an alias, if the user may, and says which room it led to.
func (s *Server) dropAlias(ctx context.Context, user id.UserID, alias id.RoomAlias) (led id.RoomID, err error) {
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		a, err := tx.GetAlias(alias)
		if missing, err := notFound(err); err != nil {
			return err
		} else if missing {
			return matrixerr.New(matrixerr.NotFound, "There is no alias %s.", alias)
		}
		led = a.Room
		if a.Creator == user {
			return tx.DeleteAlias(alias)
		}
		room, err := tx.GetRoom(a.Room)
		if err != nil {
			return err
		}
		p, err := s.powers(tx, &room, room.Root)
		if err != nil {
			return err
		}
		if !p.mayState(user, spec.MRoomCanonicalAlias) {
			return matrixerr.New(matrixerr.Forbidden, "You neither made this alias nor have the power to remove it.")
		}
		return tx.DeleteAlias(alias)
	})
	return led, err
}

// ResolveAlias is the room behind an alias, and servers that are in it.
//
// spec: client-server-api/index.md#get_matrixclientv3directoryroomroomalias
func (s *Server) ResolveAlias(ctx context.Context, alias id.RoomAlias) (room id.RoomID, servers []id.ServerName, err error) {
	if alias.Server() != s.name {
		return s.resolveAfar(ctx, alias)
	}
	room, servers, err = s.resolveHere(ctx, alias)
	if s.findAlias == nil || !matrixerr.Is(err, matrixerr.NotFound) {
		return room, servers, err
	}
	// Perhaps somebody makes it now that it is asked for.
	if made, err := s.findAlias(ctx, alias); err != nil {
		return "", nil, err
	} else if made {
		return s.resolveHere(ctx, alias)
	}
	return room, servers, err
}

func (s *Server) resolveHere(ctx context.Context, alias id.RoomAlias) (room id.RoomID, servers []id.ServerName, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		a, err := tx.GetAlias(alias)
		if missing, err := notFound(err); err != nil {
			return err
		} else if missing {
			return matrixerr.New(matrixerr.NotFound, "There is no room with the alias %s.", alias)
		}
		room = a.Room
		servers, err = s.servers(tx, room)
		return err
	})
	return room, servers, err
}

// directoryTime is for how long another server may look in its directory.
const directoryTime = 30 * time.Second

// resolveAfar asks an alias's server what it points to.
//
// spec: server-server-api.md#get_matrixfederationv1querydirectory
func (s *Server) resolveAfar(ctx context.Context, alias id.RoomAlias) (id.RoomID, []id.ServerName, error) {
	none := matrixerr.New(matrixerr.NotFound, "There is no room with the alias %s.", alias)
	if s.remote == nil {
		return "", nil, none
	}
	ctx, cancel := context.WithTimeout(ctx, directoryTime)
	defer cancel()
	answer, err := s.remote.Directory(ctx, alias.Server(), alias)
	if err != nil {
		s.log.InfoContext(ctx, "an alias could not be looked up", "alias", alias, "error", err)
		return "", nil, none
	}
	if _, err := id.ParseRoomID(string(answer.Room)); err != nil {
		return "", nil, none
	}
	servers := []id.ServerName{alias.Server()}
	for _, server := range answer.Servers {
		if _, err := id.ParseServerName(string(server)); err == nil && len(servers) < maxAliasServers && !slices.Contains(servers, server) {
			servers = append(servers, server)
		}
	}
	return answer.Room, servers, nil
}

// maxAliasServers bounds the servers that are said to be in the room of an alias.
const maxAliasServers = 100

// PublicRoomsOf is a page of another server's directory.
//
// spec: server-server-api.md#published-room-directory
func (s *Server) PublicRoomsOf(ctx context.Context, server id.ServerName, f PublicRoomsFilter, since string, limit int) (*serverapi.PublicRooms, error) {
	if _, err := id.ParseServerName(string(server)); err != nil {
		return nil, matrixerr.New(matrixerr.InvalidParam, "%q is not a server name.", server)
	}
	if s.remote == nil {
		return nil, matrixerr.New(matrixerr.NotFound, "The directory of %q can't be asked: this server does not federate.", server)
	}
	r := serverapi.PublicRoomsRequest{Limit: limit, Since: since, AllNetworks: f.Network.All, ThirdPartyNet: f.Network.instance()}
	if f.Term != "" || f.Types != nil {
		r.Filter = &serverapi.PublicRoomsFilter{Term: f.Term}
		for _, t := range f.Types {
			if t == "" {
				r.Filter.Types = append(r.Filter.Types, nil)
			} else {
				r.Filter.Types = append(r.Filter.Types, &t)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, directoryTime)
	defer cancel()
	page, err := s.remote.PublicRooms(ctx, server, r)
	if err != nil && matrixerr.CodeOf(err) == "" {
		s.log.InfoContext(ctx, "a directory could not be asked", "server", server, "error", err)
		err = matrixerr.New(matrixerr.Unknown, "The directory of %s could not be asked.", server).WithStatus(502)
	}
	if err != nil {
		return nil, err
	}
	if page.Chunk == nil {
		page.Chunk = []json.RawMessage{}
	}
	return page, nil
}

// servers are some of the servers that are in a room, ours first if it is.
func (s *Server) servers(tx *storage.Tx, room id.RoomID) ([]id.ServerName, error) {
	r, err := tx.GetRoom(room)
	if missing, err := notFound(err); missing || err != nil {
		return nil, err
	}
	servers, err := tx.ListServers(r.NID)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(servers, func(a, b id.ServerName) int {
		switch {
		case a == s.name && b != s.name:
			return -1
		case b == s.name && a != s.name:
			return 1
		}
		return 0
	})
	return servers, nil
}

// ListAliases are a room's aliases on this server, for its members and, where everybody may
// read the room, for all.
//
// spec: client-server-api/index.md#get_matrixclientv3roomsroomidaliases
func (s *Server) ListAliases(ctx context.Context, user id.UserID, room id.RoomID) ([]id.RoomAlias, error) {
	out := []id.RoomAlias{}
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		v, err := s.view(tx, user, room)
		if err != nil {
			return err
		}
		now, err := v.at(v.Room.Root)
		if err != nil {
			return err
		}
		if !v.Joined() && now.history != "world_readable" {
			return errUnknownRoom
		}
		aliases, err := tx.ListAliases(room)
		for _, a := range aliases {
			out = append(out, a.Alias)
		}
		return err
	})
	return out, err
}

// maxAfar bounds the aliases of other servers that are looked up for one event.
const maxAfar = 20

// checkCanonicalAlias refuses aliases that do not point to the room, among those that an
// m.room.canonical_alias event adds.
//
// spec: client-server-api/index.md#mroomcanonical_alias
func (s *Server) checkCanonicalAlias(ctx context.Context, r SendRequest) error {
	aliasesOf := func(content []byte) []string {
		var out []string
		if a := gjson.GetBytes(content, "alias"); a.Type == gjson.String && a.Str != "" {
			out = append(out, a.Str)
		}
		for _, a := range gjson.GetBytes(content, "alt_aliases").Array() {
			out = append(out, a.Str)
		}
		return out
	}
	var afar []id.RoomAlias
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		room, err := tx.GetRoom(r.Room)
		if missing, err := notFound(err); missing || err != nil {
			return err // the write says so
		}
		current, err := s.stateEvent(tx, &room, room.Root, spec.MRoomCanonicalAlias, "")
		if err != nil {
			return err
		}
		var known []string
		if current != nil {
			known = aliasesOf(current.Content())
		}
		for _, alias := range aliasesOf(r.Content) {
			if slices.Contains(known, alias) {
				continue
			}
			parsed, err := id.ParseRoomAlias(alias)
			if err != nil {
				return matrixerr.New(matrixerr.InvalidParam, "%q is not a room alias.", alias)
			}
			if parsed.Server() != s.name && s.remote != nil {
				afar = append(afar, parsed)
				continue
			}
			a, err := tx.GetAlias(parsed)
			if missing, err := notFound(err); err != nil {
				return err
			} else if missing || a.Room != r.Room {
				return matrixerr.New(matrixerr.BadAlias, "The alias %s does not point to this room.", alias)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(afar) > maxAfar {
		return matrixerr.New(matrixerr.InvalidParam, "At most %d aliases of other servers can be added at once.", maxAfar)
	}
	for _, alias := range afar {
		room, _, err := s.resolveAfar(ctx, alias)
		if err != nil && !matrixerr.Is(err, matrixerr.NotFound) {
			return err
		}
		if err != nil || room != r.Room {
			return matrixerr.New(matrixerr.BadAlias, "The alias %s does not point to this room.", alias)
		}
	}
	return nil
}

// Publish puts a room into the public directory, or takes it out.
//
// spec: client-server-api/index.md#put_matrixclientv3directorylistroomroomid
func (s *Server) Publish(ctx context.Context, user id.UserID, room id.RoomID, public bool) error {
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		w, err := s.lock(tx, room)
		if err != nil {
			return matrixerr.New(matrixerr.NotFound, "This room is not known to this server.")
		}
		if err := s.mustBeJoined(w, user); err != nil {
			return err
		}
		p, err := s.powers(tx, &w.room, w.room.Root)
		if err != nil {
			return err
		}
		if !p.mayState(user, spec.MRoomCanonicalAlias) {
			return matrixerr.New(matrixerr.Forbidden, "You don't have the power to publish this room.")
		}
		return tx.UpdateRoomPublished(w.room.NID, public)
	})
}

// Published says whether a room is in the public directory.
//
// spec: client-server-api/index.md#get_matrixclientv3directorylistroomroomid
func (s *Server) Published(ctx context.Context, room id.RoomID) (bool, error) {
	r, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.Room, error) { return tx.GetRoom(room) })
	if missing, err := notFound(err); err != nil {
		return false, err
	} else if missing {
		return false, matrixerr.New(matrixerr.NotFound, "This room is not known to this server.")
	}
	return r.Published, nil
}

// PublicRoom is a room as the public directory and summaries show it.
//
// spec: client-server-api/index.md#post_matrixclientv3publicrooms
type PublicRoom struct {
	RoomID           id.RoomID      `json:"room_id"`
	Name             string         `json:"name,omitempty"`
	Topic            string         `json:"topic,omitempty"`
	AvatarURL        string         `json:"avatar_url,omitempty"`
	CanonicalAlias   string         `json:"canonical_alias,omitempty"`
	JoinRule         string         `json:"join_rule,omitempty"`
	RoomType         string         `json:"room_type,omitempty"`
	NumJoinedMembers int64          `json:"num_joined_members"`
	WorldReadable    bool           `json:"world_readable"`
	GuestCanJoin     bool           `json:"guest_can_join"`
	Version          id.RoomVersion `json:"-"`
}

// PublicRoomsFilter selects rooms of the directory.
type PublicRoomsFilter struct {
	// Term is looked for in name, topic and canonical alias, in any case of letters.
	Term string
	// Types selects by room type, "" standing for rooms that have none; nil selects all.
	Types []string
	// Network has the directory of another network; the zero value is the server's own.
	Network Network
}

// Network is the directory of a network that an application service leads to.
//
// spec: application-service-api.md#published-room-directories
type Network struct {
	// Service and Name are those of the network, of which one may be empty.
	Service, Name string
	// All stands for all networks, and the server's own directory with them.
	All bool
}

// ParseNetwork reads whose directory is asked for: the network of an instance ID, "" for none, or all.
func ParseNetwork(instance string, all bool) (Network, error) {
	switch service, name, ok := strings.Cut(instance, "|"); {
	case all && instance != "":
		return Network{}, matrixerr.New(matrixerr.InvalidParam, "third_party_instance_id and include_all_networks exclude each other.")
	case ok:
		return Network{Service: service, Name: name}, nil
	default:
		return Network{Name: instance, All: all}, nil
	}
}

// instance is the network's ID as ParseNetwork reads it.
func (n Network) instance() string {
	if n.Service == "" {
		return n.Name
	}
	return n.Service + "|" + n.Name
}

// PublicRooms are the rooms of the directory, those with most members first: up to limit
// of them after the first skip, and how many there are.
func (s *Server) PublicRooms(ctx context.Context, f PublicRoomsFilter, skip, limit int) (rooms []PublicRoom, total int, err error) {
	rooms = []PublicRoom{}
	term := strings.ToLower(f.Term)
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		published, err := listPublished(tx, f.Network)
		if err != nil {
			return err
		}
		for i := range published {
			if f.Term == "" && f.Types == nil && (total < skip || len(rooms) >= limit) {
				total++
				continue
			}
			p, err := s.summary(tx, &published[i])
			if err != nil {
				return err
			}
			if f.Types != nil && !slices.Contains(f.Types, p.RoomType) {
				continue
			}
			if term != "" && !strings.Contains(strings.ToLower(p.Name+"\n"+p.Topic+"\n"+p.CanonicalAlias), term) {
				continue
			}
			total++
			if total > skip && len(rooms) < limit {
				rooms = append(rooms, p)
			}
		}
		return nil
	})
	return rooms, total, err
}

// listPublished are the rooms of a directory.
func listPublished(tx *storage.Tx, n Network) ([]storage.Room, error) {
	if n.Service == "" && n.Name == "" && !n.All {
		return tx.ListPublishedRooms()
	}
	rooms, err := tx.ListNetworkRooms(n.Service, n.Name)
	if err != nil || !n.All {
		return rooms, err
	}
	own, err := tx.ListPublishedRooms()
	for _, room := range own {
		if !slices.ContainsFunc(rooms, func(r storage.Room) bool { return r.NID == room.NID }) {
			rooms = append(rooms, room)
		}
	}
	slices.SortStableFunc(rooms, func(a, b storage.Room) int { return int(b.Joined - a.Joined) })
	return rooms, err
}

const (
	// rememberedSummaries bounds the rooms of which is remembered what a directory shows of them, and rememberedSummary
	// the bytes of one that is.
	rememberedSummaries = 4096
	rememberedSummary   = 2048
	// summarySnapshot is longer than any snapshot lives of which a summary is made, in milliseconds.
	summarySnapshot = 5 * 60_000
)

// summaryKey is a state of a room.
type summaryKey struct {
	room storage.RoomNID
	root int64
}

// summaryCache remembers what a directory shows of rooms, but for how many have joined: a search does not read each room
// anew.
type summaryCache struct {
	lru *lru.Cache[summaryKey, PublicRoom]

	mu sync.Mutex // held while something is put in or taken out
	// redacted is when a state event was last redacted: the state is what it was, and says something else. Who still
	// has the snapshot before may not put in what it said.
	redacted int64
}

func newSummaryCache() (*summaryCache, error) {
	summaries, err := lru.New[summaryKey, PublicRoom](rememberedSummaries)
	return &summaryCache{lru: summaries}, err
}

func (c *summaryCache) add(key summaryKey, p *PublicRoom, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now-c.redacted > summarySnapshot && len(p.Name)+len(p.Topic)+len(p.AvatarURL)+len(p.CanonicalAlias)+len(p.RoomType) <= rememberedSummary {
		c.lru.Add(key, *p)
	}
}

func (c *summaryCache) forget(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.redacted = now
	c.lru.Purge()
}

// summary is what the directory shows of a room.
func (s *Server) summary(tx *storage.Tx, room *storage.Room) (PublicRoom, error) {
	key := summaryKey{room.NID, room.Root}
	if p, ok := s.summaries.lru.Get(key); ok {
		p.NumJoinedMembers = room.Joined
		return p, nil
	}
	p, err := s.readSummary(tx, room)
	if err == nil && !tx.Writing() {
		s.summaries.add(key, &p, s.now())
	}
	return p, err
}

func (s *Server) readSummary(tx *storage.Tx, room *storage.Room) (PublicRoom, error) {
	p := PublicRoom{RoomID: room.ID, NumJoinedMembers: room.Joined, Version: room.Version}
	var keys []state.Key
	for _, t := range append(slices.Clone(strippedTypes), spec.MRoomHistoryVisibility, spec.MRoomGuestAccess) {
		keys = append(keys, state.Key{Type: t})
	}
	found, err := s.stateEvents(tx, room, room.Root, keys)
	if err != nil {
		return p, err
	}
	get := func(eventType, path string) string { return found[state.Key{Type: eventType}].field(path) }
	p.Name = get(spec.MRoomName, "name")
	p.Topic = get(spec.MRoomTopic, "topic")
	p.AvatarURL = get(spec.MRoomAvatar, "url")
	p.CanonicalAlias = get(spec.MRoomCanonicalAlias, "alias")
	if p.JoinRule = get(spec.MRoomJoinRules, "join_rule"); p.JoinRule == "" {
		p.JoinRule = spec.Invite // what the rules take it for, where clients would say public
	}
	p.RoomType = get(spec.MRoomCreate, "type")
	p.WorldReadable = get(spec.MRoomHistoryVisibility, "history_visibility") == "world_readable"
	p.GuestCanJoin = get(spec.MRoomGuestAccess, "guest_access") == "can_join"
	return p, nil
}
