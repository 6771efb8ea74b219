// Package syncapi is /sync and sliding sync: it tells a client what is new since it last asked,
// and lets it wait for that.
//
// An answer is made of one snapshot of the database, and next_batch is the position of that
// snapshot; so it depends on nothing but the database, the token and the filter, and a client
// that asks again with the same token gets the same again. What the hub remembers of the last
// notices only says where to look. Typing and presence are not in the log: the token says how
// many notices of them the client has been told of.
//
// Sliding sync answers by the same rules, for the rooms that the client has in sight: what its
// connection was told before is kept in the database, two states of it, so that a client may ask
// again from where it is. That is all that it writes. What it needs of the accounts beyond the database, it asks through the
// small interfaces in [Options].
//
// spec: client-server-api/index.md#syncing
package syncapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2"

	"parley/clientapi/syncapi/sliding"
	"parley/internal/filter"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/internal/token"
	"parley/internal/unread"
	"parley/roomserver"
	"parley/storage"
)

const (
	// maxTimeout bounds how long a client is kept waiting.
	maxTimeout = 2 * time.Minute
	// defaultLimit is how many events a timeline has where the filter doesn't say.
	defaultLimit = 10
	// maxLimit bounds what a filter may ask for.
	maxLimit = 500
	// cachedFilters bounds the parsed filters that are kept, and cachedFilterSize the text of
	// one that is.
	cachedFilters    = 4096
	cachedFilterSize = 4096
	// cachedIgnored bounds the users of whom is kept whom they ignore.
	cachedIgnored = 20_000
)

// Users is what a sync asks of the accounts that is not in the database.
type Users interface {
	// Syncing notes that a client of the user waits for news for so long, and what presence
	// it asks for.
	Syncing(user id.UserID, state string, hold time.Duration)
	// Typing is who types in a room.
	Typing(room id.RoomID) (users []id.UserID, serial uint64)
	// ListPresent are up to limit users who are not offline.
	ListPresent(limit int) []id.UserID
	// GotToDevice notes that a device has its messages up to a position.
	GotToDevice(ctx context.Context, deviceNID int64, pos id.Pos) error
}

// Presence is how a user shows themselves.
type Presence struct {
	State           string
	StatusMsg       string
	LastActive      time.Time
	CurrentlyActive bool
}

// Options is what /sync needs. DB, Rooms, Hub and Users must be given.
type Options struct {
	DB    *storage.DB
	Rooms *roomserver.Server
	Hub   *stream.Hub
	Users Users
	// Presence is a user's presence; nil where it is turned off.
	Presence func(user id.UserID) Presence
	// Unread counts what a user, who is joined, has not read in a room; nil where nobody counts.
	Unread func(tx *storage.Tx, user id.UserID, room *storage.Room) (unread.Counts, error)
	// UnreadNow is Unread from memory, where it can be told from there, for a user of whom it
	// is known that no receipt and no rule has changed after since and up to at.
	UnreadNow func(ctx context.Context, user id.UserID, room id.RoomID, since, at id.Pos) (u unread.Counts, ok bool, err error)
	// Now is the clock.
	Now func() time.Time
	Log *slog.Logger
}

// API answers /sync.
type API struct {
	Options
	filters *lru.Cache[string, *filter.Filter]
	tails   *tails
	ignored *lru.Cache[id.UserID, ignoredUsers]
	// given are the devices that were given messages, each with the position of the last.
	given *lru.Cache[int64, id.Pos]
	// counts are the fields on its keys that each device was told last; see knownKeyCounts.
	counts *lru.Cache[int64, []byte]
	// spooled is how much of answers waits in files for clients that are slow.
	spooled spooled
	// rosters and connections are those of sliding sync.
	rosters     *rosters
	connections *lru.Cache[connectionKey, *sliding.State]
}

// New makes an API that is ready to answer.
func New(o Options) (*API, error) {
	if o.DB == nil || o.Rooms == nil || o.Hub == nil || o.Users == nil {
		return nil, errors.New("sync API: database, rooms, hub and users must be given")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	filters, err := lru.New[string, *filter.Filter](cachedFilters)
	if err != nil {
		return nil, fmt.Errorf("sync API: %w", err)
	}
	ignored, err := lru.New[id.UserID, ignoredUsers](cachedIgnored)
	if err != nil {
		return nil, fmt.Errorf("sync API: %w", err)
	}
	tails, err := newTails(o.DB, o.Rooms)
	if err != nil {
		return nil, fmt.Errorf("sync API: %w", err)
	}
	given, err := lru.New[int64, id.Pos](cachedDevices)
	if err != nil {
		return nil, fmt.Errorf("sync API: %w", err)
	}
	counts, err := lru.New[int64, []byte](cachedDevices)
	if err != nil {
		return nil, fmt.Errorf("sync API: %w", err)
	}
	rosters, err := newRosters()
	if err != nil {
		return nil, fmt.Errorf("sync API: %w", err)
	}
	connections, err := lru.New[connectionKey, *sliding.State](cachedConnections)
	if err != nil {
		return nil, fmt.Errorf("sync API: %w", err)
	}
	return &API{
		Options: o, filters: filters, ignored: ignored, tails: tails, given: given, counts: counts,
		rosters: rosters, connections: connections,
	}, nil
}

// JoinedRooms are the rooms that a user is joined to, and the position of the log at which
// they are. It is what a hub asks for.
func JoinedRooms(ctx context.Context, db *storage.DB, user id.UserID) (rooms []id.RoomID, at id.Pos, err error) {
	err = db.Read(ctx, func(tx *storage.Tx) error {
		if at, err = tx.GetPos(); err != nil {
			return err
		}
		rooms, err = tx.ListJoinedRooms(user)
		return err
	})
	return rooms, at, err
}

// Routes is what this package answers.
func (a *API) Routes() httpapi.Table {
	return append(a.oldRoutes(), httpapi.Route{
		Method: http.MethodGet, Path: "/_matrix/client/v3/sync",
		Auth: httpapi.UserOrGuest, Rate: httpapi.RateNone, Handler: httpapi.Stream(a.sync),
	}, httpapi.Route{
		Method: http.MethodPost, Path: "/_matrix/client/v4/sync",
		Auth: httpapi.User, Rate: httpapi.RateNone, NeedBody: true, Handler: httpapi.Stream(a.slidingSync),
	}, httpapi.Route{
		Method: http.MethodPost, Path: "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
		Auth: httpapi.User, Rate: httpapi.RateNone, NeedBody: true, Handler: httpapi.Stream(a.oldSlidingSync),
	})
}

type syncRequest struct {
	Filter      string `query:"filter"`
	Since       string `query:"since"`
	FullState   bool   `query:"full_state"`
	SetPresence string `query:"set_presence"`
	Timeout     int64  `query:"timeout"`
	// StateAfter has an unstable name, too, as clients began to use it before it was specified: who
	// asks by it looks for an answer by it.
	StateAfter  bool `query:"use_state_after"`
	StateAfter2 bool `query:"org.matrix.msc4222.use_state_after"`
}

// request is what a client asks for.
type request struct {
	user      id.UserID
	deviceNID int64
	// initial says that the client knows nothing yet; since is what it has been told, else.
	initial bool
	since   stream.Mark
	// news is what the hub has said since then, if it was asked already.
	news   *stream.News
	filter *filter.Filter

	fullState  bool
	stateAfter bool
	unstable   bool // state_after goes by its unstable name
}

// sync answers /sync.
//
// spec: client-server-api/index.md#get_matrixclientv3sync
func (a *API) sync(ctx context.Context, r *httpapi.Request, in *syncRequest, w http.ResponseWriter) error {
	req, err := a.parse(ctx, r.Caller, in)
	if err != nil {
		return err
	}
	p := patience{user: req.user, presence: in.SetPresence, timeout: in.Timeout, atOnce: req.initial || req.fullState}
	return a.poll(ctx, p, func(last bool) (told bool, since stream.Mark, err error) {
		told, known, err := a.quick(ctx, req, w, last)
		if err == nil && !known {
			told, err = aside(func() (bool, error) { return a.answer(ctx, req, w, last) })
		}
		return told, req.since, err
	})
}

// patience is how a client waits for news.
type patience struct {
	user id.UserID
	// presence is what the client says of its user, timeout for how many milliseconds it waits.
	presence string
	timeout  int64
	// atOnce says that there is an answer in any case.
	atOnce bool
}

// poll tries to answer until a client was told something. Where there was nothing to tell it waits
// for what comes after since. The last time it tries, the client is told that there is nothing.
func (a *API) poll(ctx context.Context, p patience, try func(last bool) (told bool, since stream.Mark, err error)) error {
	hold := time.Duration(min(max(p.timeout, 0), maxTimeout.Milliseconds())) * time.Millisecond
	if p.atOnce {
		hold = 0
	}
	a.Users.Syncing(p.user, cmp.Or(p.presence, "online"), hold)
	var timeout <-chan time.Time
	if hold > 0 {
		timer := time.NewTimer(hold)
		defer timer.Stop()
		timeout = timer.C
	}
	for last := hold == 0; ; {
		if err := a.Hub.Track(ctx, p.user); err != nil {
			return err
		}
		told, since, err := try(last)
		if err != nil || told {
			return err
		}
		switch last, err = a.Hub.Wait(ctx, p.user, since, timeout); {
		case errors.Is(err, stream.ErrClosed):
			last = true // the client is told that there is nothing, and asks whoever comes after us
		case err != nil:
			return err
		}
	}
}

// aside runs fn on a goroutine of its own and waits for it. Asking the database takes a deep
// stack, and the one of a connection would keep its size as long as the client then waits.
func aside(fn func() (bool, error)) (told bool, err error) {
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { panicked = recover() }()
		told, err = fn()
	}()
	<-done
	if panicked != nil {
		panic(panicked) // as the caller would have; it is caught where requests are
	}
	return told, err
}

// parse reads what a client asks for.
func (a *API) parse(ctx context.Context, c *httpapi.Caller, in *syncRequest) (*request, error) {
	if err := checkPresence(in.SetPresence); err != nil {
		return nil, err
	}
	req := &request{
		user: c.User, deviceNID: c.DeviceNID, initial: in.Since == "", fullState: in.FullState,
		stateAfter: in.StateAfter || in.StateAfter2, unstable: !in.StateAfter,
	}
	if in.Since != "" {
		pos, seq, err := token.ParseSync(a.DB.Epoch(), a.Hub.Life(), in.Since)
		switch {
		case errors.Is(err, token.ErrEpoch):
			// The log that the client remembers was replaced by a backup. An error would leave
			// it asking for ever, so it is told all, as if it came for the first time.
			req.initial = true
		case err != nil || pos < 0:
			return nil, matrixerr.New(matrixerr.InvalidParam, "since is not a token that /sync gave out")
		default:
			req.since = stream.Mark{Pos: id.Pos(pos), Seq: seq}
		}
	}
	var err error
	req.filter, err = a.filter(ctx, c.User, in.Filter)
	return req, err
}

func checkPresence(state string) error {
	switch state {
	case "", "online", "offline", "unavailable":
		return nil
	}
	return matrixerr.New(matrixerr.InvalidParam, "set_presence is none of online, offline, unavailable")
}

// filter is the filter that a client names or gives.
func (a *API) filter(ctx context.Context, user id.UserID, s string) (*filter.Filter, error) {
	if s == "" {
		return &filter.Filter{}, nil
	}
	inline := strings.HasPrefix(s, "{")
	key := s
	if !inline {
		key = string(user) + "\x00" + s
	}
	if f, ok := a.filters.Get(key); ok {
		return f, nil
	}
	text := []byte(s)
	if !inline {
		var err error
		text, err = storage.Get(ctx, a.DB, func(tx *storage.Tx) ([]byte, error) { return tx.GetFilter(user, s) })
		if errors.Is(err, storage.ErrNotFound) {
			return nil, matrixerr.New(matrixerr.InvalidParam, "there is no filter %q", s)
		} else if err != nil {
			return nil, err
		}
	}
	f, err := filter.Parse(text)
	if err == nil && len(key) <= cachedFilterSize {
		a.filters.Add(strings.Clone(key), f)
	}
	return f, err
}
