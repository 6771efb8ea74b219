package roomserver

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/matrix-org/gomatrixserverlib"

	"parley/internal/id"
	"parley/roomserver/state"
	"parley/roomserver/state/resolve"
	"parley/storage"
)

// Options is what a room server needs.
type Options struct {
	DB *storage.DB
	// Name is this server's name; KeyID ("ed25519:a1") and Key sign its events.
	Name  id.ServerName
	KeyID string
	Key   ed25519.PrivateKey
	// DefaultVersion is the version of rooms whose creator names none.
	DefaultVersion id.RoomVersion
	// Clock tells the time; nil means the system's.
	Clock func() time.Time
	Log   *slog.Logger
	// Remote asks other servers; nil where this node talks to none.
	Remote Remote
	// Identity asks identity servers; nil where this node talks to none.
	Identity IdentityServers
	// FindAlias has whoever makes rooms on demand make that of an alias of ours, and says whether one did; nil where nobody does.
	FindAlias func(ctx context.Context, alias id.RoomAlias) (bool, error)
	// Retention is for how long messages are kept.
	Retention Retention
	// StateCacheBytes bounds the memory for nodes of state trees; 0 means a good default.
	StateCacheBytes int64
}

// rememberedResolutions bounds how many forks' resolved states are remembered.
const rememberedResolutions = 4096

// Server is the room server.
type Server struct {
	db             *storage.DB
	name           id.ServerName
	keyID          string
	key            ed25519.PrivateKey
	defaultVersion id.RoomVersion
	clock          func() time.Time
	log            *slog.Logger
	tree           *state.Tree
	resolver       *resolve.Resolver
	events         *eventCache
	authSets       *authCache
	acls           *lru.Cache[storage.EventNID, *acl]
	summaries      *summaryCache
	remote         Remote // nil: this node talks to no other
	identity       IdentityServers
	findAlias      func(context.Context, id.RoomAlias) (bool, error)
	intake         intake
	remoteRooms    *remoteHierarchies
	entering       *roomLocks // of rooms that our users are about to be let into
	filling        *roomLocks // of rooms whose history is asked for
	partial        *partialRooms
	retention      Retention
	expired        atomic.Int64 // messages
}

// New makes a room server that is ready to use.
func New(o Options) (*Server, error) {
	if o.DB == nil || o.Name == "" || o.KeyID == "" || len(o.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("room server: database, name and signing key must be given")
	}
	if !gomatrixserverlib.StableRoomVersion(gomatrixserverlib.RoomVersion(o.DefaultVersion)) {
		return nil, fmt.Errorf("room server: default room version %q is not a stable version", o.DefaultVersion)
	}
	if o.Retention.Enabled && o.Retention.Interval <= 0 {
		return nil, errors.New("room server: the interval of retention must be above 0")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.StateCacheBytes == 0 {
		o.StateCacheBytes = 64 << 20
	}
	events, err := newEventCache()
	if err != nil {
		return nil, err
	}
	authSets, err := newAuthCache()
	if err != nil {
		return nil, err
	}
	acls, err := newACLCache()
	if err != nil {
		return nil, err
	}
	summaries, err := newSummaryCache()
	if err != nil {
		return nil, err
	}
	remoteRooms, err := newRemoteHierarchies()
	if err != nil {
		return nil, err
	}
	tree := state.New(state.NewCache(o.StateCacheBytes))
	return &Server{
		db: o.DB, name: o.Name, keyID: o.KeyID, key: o.Key, defaultVersion: o.DefaultVersion,
		clock: o.Clock, log: o.Log,
		tree: tree, resolver: resolve.New(tree, rememberedResolutions), events: events, authSets: authSets,
		acls: acls, summaries: summaries, remote: o.Remote, identity: o.Identity, findAlias: o.FindAlias, intake: newIntake(), remoteRooms: remoteRooms, entering: newRoomLocks(), filling: newRoomLocks(),
		partial: newPartialRooms(), retention: o.Retention,
	}, nil
}

func (s *Server) now() int64 { return s.clock().UnixMilli() }

// local says whether a user is one of ours.
func (s *Server) local(user id.UserID) bool { return user.Server() == s.name }

// Versions are the room versions that we can make rooms of, with their stability.
func Versions() map[id.RoomVersion]string {
	out := make(map[id.RoomVersion]string)
	for v := range gomatrixserverlib.StableRoomVersions() {
		out[id.RoomVersion(v)] = "stable"
	}
	return out
}

// DefaultVersion is the version of rooms whose creator names none.
func (s *Server) DefaultVersion() id.RoomVersion { return s.defaultVersion }
