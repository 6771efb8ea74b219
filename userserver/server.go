package userserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"parley/internal/id"
	"parley/internal/mail"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/storage"
)

// Rooms is what an account asks of the rooms that its user is in.
type Rooms interface {
	// UpdateProfile sends the user's member event anew to each room that they are joined to.
	UpdateProfile(ctx context.Context, user id.UserID, displayName, avatarURL string) error
	// LeaveAll has a user leave all rooms, and reject all invitations.
	LeaveAll(ctx context.Context, user id.UserID) error
	// ServerAllowed says whether a room lets another server take part.
	ServerAllowed(ctx context.Context, room id.RoomID, server id.ServerName) (bool, error)
	// Encounters says who of met came to share a room with a user since a position, and who of lost
	// shares none any more.
	Encounters(tx *storage.Tx, user id.UserID, since id.Pos, met, lost []id.UserID) (came, went []id.UserID, err error)
}

// Options is what a server needs. DB, ServerName and Rooms must be given; the rest has
// defaults.
type Options struct {
	DB         *storage.DB
	ServerName id.ServerName
	Rooms      Rooms
	Log        *slog.Logger
	// Now is the clock.
	Now func() time.Time
	// Hashing says what it costs to try a password.
	Hashing Hashing
	// MinPassword is the least number of characters of a new password.
	MinPassword int
	// AccessTokenLife is how long an access token lives for a client that can refresh it;
	// for others it lives until they log out.
	AccessTokenLife time.Duration
	// FindAllUsers has searches of the directory find all users of ours, and not only those whom
	// the one who searches may know.
	FindAllUsers bool
	// Publish sends a notice of typing or presence, which are not in the log.
	Publish func(stream.Notice)
	// NoPresence turns presence off: all users are offline, always.
	NoPresence bool
	// LocalPresence keeps to the presence of our own users: what other servers say is ignored.
	LocalPresence bool
	// RegistrationToken can be used for any number of registrations; "" for no such token.
	RegistrationToken string
	// MaxUsers bounds the accounts that people make for themselves; 0 for no bound.
	MaxUsers int
	// Mailer sends the mails by which addresses are shown to be their users'; nil for none. Their
	// links begin with PublicURL.
	Mailer    *mail.Mailer
	PublicURL string
	// Identity tells identity servers of addresses; nil where this node talks to none.
	Identity IdentityServers
	// FindUser has whoever makes users on demand make one of ours, and says whether one did; nil where nobody does.
	FindUser func(ctx context.Context, user id.UserID) (bool, error)
	// Remote asks other servers; nil where this node talks to none.
	Remote Remote
}

// Server keeps the accounts. Its methods may be called concurrently.
type Server struct {
	db     *storage.DB
	name   id.ServerName
	rooms  Rooms
	log    *slog.Logger
	now    func() time.Time
	hasher *hasher
	minPwd int
	life   time.Duration

	regToken    string
	ownPresence bool
	findAll     bool
	maxUsers    int
	mailer      *mail.Mailer
	publicURL   string
	identity    IdentityServers
	findUser    func(context.Context, id.UserID) (bool, error)
	remote      Remote

	cache        *tokenCache
	lastSweep    sweepTime
	messageSweep sweepTime
	typing       *typing
	presence     *presence

	refreshes *refreshes

	// running ends when the server is closed.
	running context.Context
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// New starts a server; Close ends it.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Publish == nil {
		o.Publish = func(stream.Notice) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Hashing == (Hashing{}) {
		// The first of OWASP's equivalent settings for argon2id.
		o.Hashing = Hashing{Memory: 19 << 10, Passes: 2, AtOnce: runtime.NumCPU()}
	}
	if o.MinPassword == 0 {
		o.MinPassword = 8
	}
	if o.AccessTokenLife == 0 {
		o.AccessTokenLife = time.Hour
	}
	s := &Server{
		db: o.DB, name: o.ServerName, rooms: o.Rooms, log: o.Log, now: o.Now,
		hasher: newHasher(o.Hashing), minPwd: o.MinPassword, life: o.AccessTokenLife,
		regToken: o.RegistrationToken, maxUsers: o.MaxUsers, mailer: o.Mailer, publicURL: o.PublicURL, identity: o.Identity, findUser: o.FindUser, remote: o.Remote, findAll: o.FindAllUsers, ownPresence: o.LocalPresence,
		cache: newTokenCache(), refreshes: newRefreshes(),
	}
	s.typing = &typing{publish: o.Publish, rooms: make(map[id.RoomID]*typingRoom)}
	s.presence = &presence{off: o.NoPresence, now: o.Now, publish: o.Publish, users: make(map[id.UserID]*presenceEntry)}
	s.running, s.stop = context.WithCancel(context.Background())
	s.done.Go(s.letTimePass)
	s.done.Go(s.fillDirectory)
	if s.remote != nil {
		s.done.Go(s.keepFresh)
	}
	return s
}

// letTimePass ends what has run out, until the server is closed.
func (s *Server) letTimePass() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-s.running.Done():
			return
		case <-tick.C:
			s.typing.expire(s.now())
			if i%5 == 0 {
				s.presence.expire(s.now())
			}
		}
	}
}

// Close waits for what the server does by itself to end.
func (s *Server) Close() {
	s.stop()
	s.done.Wait()
}

// ServerName is the name of the node whose accounts these are.
func (s *Server) ServerName() id.ServerName { return s.name }

func (s *Server) millis() int64 { return s.now().UnixMilli() }

// Local says whether user is one of ours by name; there may be no such account.
func (s *Server) Local(user id.UserID) bool { return user.Server() == s.name }

// User is an account of this node, for those who may not know storage.
type User = storage.User

// GetUser is an account of ours; one that never was is M_NOT_FOUND.
func (s *Server) GetUser(ctx context.Context, user id.UserID) (storage.User, error) {
	u, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.User, error) { return tx.GetUser(user) })
	return u, notFound(err, "there is no user %s", user)
}

// ListUsers are up to limit accounts in the order of their IDs, those after the given one.
func (s *Server) ListUsers(ctx context.Context, after id.UserID, limit int) ([]storage.User, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.User, error) { return tx.ListUsers(after, limit) })
}

// notFound turns a missing row into an error for whoever asked, and adds nothing to others.
func notFound(err error, format string, args ...any) error {
	if errors.Is(err, storage.ErrNotFound) {
		return matrixerr.New(matrixerr.NotFound, format, args...)
	}
	return err
}

// sweep removes what has expired, at most once in a while, as part of a write that is made anyway.
func (s *Server) sweep(tx *storage.Tx) error {
	now := s.now()
	if !s.lastSweep.due(now, time.Minute) {
		return nil
	}
	if err := tx.DeleteExpired(now.UnixMilli()); err != nil {
		return fmt.Errorf("remove what has expired: %w", err)
	}
	return nil
}

// sweepTime says when it is time to sweep.
type sweepTime struct {
	mu   sync.Mutex
	last time.Time
}

func (t *sweepTime) due(now time.Time, every time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.last) < every {
		return false
	}
	t.last = now
	return true
}
