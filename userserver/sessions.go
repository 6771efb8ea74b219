package userserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

// Caller is whom an access token stands for.
type Caller struct {
	User   id.UserID
	Device id.DeviceID
	// DeviceNID is the device's number, which is never given to another one.
	DeviceNID int64
	Admin     bool
	Guest     bool
	// Locked callers may do nothing but log out; see [LockedError].
	Locked    bool
	Suspended bool
}

// LockedError is the answer to a locked user.
//
// spec: client-server-api/index.md#account-locking
func LockedError() *matrixerr.Error {
	return matrixerr.New(matrixerr.UserLocked, "this account has been locked").WithStatus(401).With("soft_logout", true)
}

// seenEvery is how exactly we know when a device was last heard of.
const seenEvery = 10 * time.Minute

// newToken makes a token that nobody can guess. The prefix tells people and secret scanners
// what it is.
func newToken(prefix string) string { return prefix + rand.Text() }

func hashToken(token string) storage.TokenHash { return sha256.Sum256([]byte(token)) }

// Authenticate says whom an access token stands for; ip is where the request came from.
//
// spec: client-server-api/index.md#using-access-tokens
func (s *Server) Authenticate(ctx context.Context, token, ip string) (Caller, error) {
	hash, now := hashToken(token), s.now()
	caller, ok, before := s.cache.get(hash, now)
	if ok {
		return caller, nil
	}
	t, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.TokenOwner, error) { return tx.GetToken(hash, false) })
	if errors.Is(err, storage.ErrNotFound) {
		return Caller{}, matrixerr.New(matrixerr.UnknownToken, "the access token is not known")
	}
	if err != nil {
		return Caller{}, err
	}
	until := now.Add(cacheLife)
	if t.Expires != 0 {
		expires := time.UnixMilli(t.Expires)
		if !now.Before(expires) {
			return Caller{}, matrixerr.New(matrixerr.UnknownToken, "the access token has expired").With("soft_logout", true)
		}
		if expires.Before(until) {
			until = expires
		}
	}
	if t.Older {
		if err := s.endOlder(ctx, &t); err != nil {
			return Caller{}, err
		}
		_, _, before = s.cache.get(hash, now)
	}
	if now.UnixMilli()-t.Device.Seen >= seenEvery.Milliseconds() {
		err := s.db.Write(ctx, func(tx *storage.Tx) error { return tx.UpdateDeviceSeen(t.DeviceNID, now.UnixMilli(), ip) })
		if err != nil {
			s.log.Warn("could not note when a device was seen", "user", t.User.ID, "device", t.Device.ID, "err", err)
		}
	}
	caller = callerOf(&t)
	s.cache.add(hash, caller, now, until, before)
	return caller, nil
}

// AuthenticateService is the caller where an application service acts for a user: by one of their devices, or by
// none where device is "".
//
// spec: application-service-api.md#identity-assertion
func (s *Server) AuthenticateService(ctx context.Context, user id.UserID, device id.DeviceID) (Caller, error) {
	var t storage.TokenOwner
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if t.User, err = tx.GetUser(user); err != nil || t.User.Deactivated {
			if err == nil || errors.Is(err, storage.ErrNotFound) {
				err = matrixerr.New(matrixerr.Forbidden, "the application service has no account %s", user)
			}
			return err
		}
		if device == "" {
			return nil
		}
		if t.Device, err = tx.GetDevice(user, device); errors.Is(err, storage.ErrNotFound) {
			err = matrixerr.New(matrixerr.UnknownDevice, "%s has no device %.50q", user, string(device))
		}
		return err
	})
	if t.DeviceNID = t.Device.NID; device == "" {
		t.DeviceNID = withoutDevice(user)
	}
	return callerOf(&t), err
}

// withoutDevice stands for a device's number where there is none, so that what is remembered of requests is told apart
// by user. It is that of no device, as it is negative.
func withoutDevice(user id.UserID) int64 {
	sum := sha256.Sum256([]byte(user))
	return -int64(binary.BigEndian.Uint64(sum[:])>>2) - 2
}

// TakeServiceUser sees to it that there is the user who acts for an application service, and that they are known as its.
func (s *Server) TakeServiceUser(ctx context.Context, service string, user id.UserID) error {
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		u, err := tx.LockUser(user)
		if errors.Is(err, storage.ErrNotFound) {
			_, err = tx.InsertUser(&storage.User{ID: user, Created: s.millis(), AppService: service})
			return err
		}
		if err != nil || u.AppService == service {
			return err
		}
		u.AppService = service
		return tx.UpdateUser(&u)
	})
}

func callerOf(t *storage.TokenOwner) Caller {
	return Caller{User: t.User.ID, Device: t.Device.ID, DeviceNID: t.DeviceNID, Admin: t.User.Admin,
		Guest: t.User.Guest, Locked: t.User.Locked, Suspended: t.User.Suspended}
}

// endOlder ends the tokens that a refresh has replaced, as one of the new ones is used.
//
// spec: client-server-api/index.md#refreshing-access-tokens
func (s *Server) endOlder(ctx context.Context, t *storage.TokenOwner) error {
	err := s.db.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteTokensBefore(t.DeviceNID, t.Generation) })
	if err == nil {
		s.cache.drop(t.User.ID)
	}
	return err
}

// NewSession is what a client says of the device that it logs in with.
type NewSession struct {
	// Device is "" to have one made up.
	Device      id.DeviceID
	DisplayName string
	// Refresh says that the client can refresh its tokens, so that they may expire.
	Refresh bool
	// IP is where the request came from.
	IP string
}

// Session is what a client gets when it has logged in.
type Session struct {
	User   id.UserID
	Device id.DeviceID
	// DeviceNID is the device's number.
	DeviceNID    int64
	AccessToken  string
	RefreshToken string
	// ExpiresIn is how long the access token lives, 0 for until it is logged out.
	ExpiresIn time.Duration
}

// Login makes a session for a user who has proved who they are. A device that exists is used
// again, and its tokens end.
//
// spec: client-server-api/index.md#relationship-between-access-tokens-and-devices
func (s *Server) Login(ctx context.Context, user id.UserID, n NewSession) (Session, error) {
	if err := n.validate(); err != nil {
		return Session{}, err
	}
	var out Session
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		u, err := tx.GetUser(user)
		if err != nil {
			return notFound(err, "there is no user %s", user)
		}
		if err := refuse(&u); err != nil {
			return err
		}
		out, err = s.openSession(tx, user, n, false)
		return err
	})
	if err != nil {
		return Session{}, err
	}
	if n.Device != "" {
		s.cache.drop(user)
	}
	return out, nil
}

// refuse says why an account cannot be logged in to.
func refuse(u *storage.User) error {
	switch {
	case u.Deactivated:
		return matrixerr.New(matrixerr.UserDeactivated, "this account has been deactivated").WithStatus(403)
	case u.Locked:
		return LockedError()
	}
	return nil
}

func (n *NewSession) validate() error {
	if len(n.Device) > id.MaxLength || len(n.DisplayName) > id.MaxLength {
		return matrixerr.New(matrixerr.InvalidParam, "the device's ID or name is longer than %d bytes", id.MaxLength)
	}
	if !cleanText(string(n.Device)) || !cleanText(n.DisplayName) {
		return matrixerr.New(matrixerr.InvalidParam, "the device's ID or name has characters that are not allowed")
	}
	return nil
}

// openSession makes a device, or takes up one that exists, and gives it tokens. fresh says
// that the account was made just now.
func (s *Server) openSession(tx *storage.Tx, user id.UserID, n NewSession, fresh bool) (Session, error) {
	d := storage.Device{User: user, ID: n.Device, DisplayName: n.DisplayName, Seen: s.millis(), SeenIP: n.IP}
	known := false
	if d.ID == "" {
		d.ID = id.DeviceID(rand.Text()[:10])
	} else if !fresh {
		old, err := tx.GetDevice(user, d.ID)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return Session{}, err
		}
		if known = err == nil; known {
			d = old
		}
	}
	if known {
		if err := tx.DeleteTokens(d.NID); err != nil {
			return Session{}, err
		}
		// Somebody holds it from now on.
		if err := tx.DeleteDehydratedDevice(d.NID); err != nil {
			return Session{}, err
		}
	} else if err := insertDevice(tx, &d); err != nil {
		return Session{}, err
	}
	return s.issue(tx, &d, 0, n.Refresh)
}

// issue gives a device the tokens of a generation.
func (s *Server) issue(tx *storage.Tx, d *storage.Device, generation int64, refresh bool) (Session, error) {
	out := Session{User: d.User, Device: d.ID, DeviceNID: d.NID, AccessToken: newToken("pat_")}
	access := storage.Token{Hash: hashToken(out.AccessToken), DeviceNID: d.NID, Generation: generation}
	if refresh {
		out.ExpiresIn = s.life
		access.Expires = s.now().Add(s.life).UnixMilli()
		out.RefreshToken = newToken("prt_")
		err := tx.InsertToken(&storage.Token{Hash: hashToken(out.RefreshToken), DeviceNID: d.NID, Generation: generation, Refresh: true})
		if err != nil {
			return Session{}, err
		}
	}
	return out, tx.InsertToken(&access)
}

// Refresh gives new tokens for a refresh token. The old ones end when one of the new ones is used.
//
// spec: client-server-api/index.md#refreshing-access-tokens
func (s *Server) Refresh(ctx context.Context, refreshToken string) (Session, error) {
	var out Session
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		t, err := tx.GetToken(hashToken(refreshToken), true)
		if errors.Is(err, storage.ErrNotFound) {
			return matrixerr.New(matrixerr.UnknownToken, "the refresh token is not known")
		}
		if err != nil {
			return err
		}
		if err := refuse(&t.User); err != nil {
			return err
		}
		if t.Older {
			if err := tx.DeleteTokensBefore(t.DeviceNID, t.Generation); err != nil {
				return err
			}
		}
		last, err := tx.GetLastGeneration(t.DeviceNID)
		if err != nil {
			return err
		}
		out, err = s.issue(tx, &t.Device, last+1, true)
		return err
	})
	if err != nil {
		return Session{}, err
	}
	s.cache.drop(out.User)
	return out, nil
}

// Logout ends a session, and its device with it.
func (s *Server) Logout(ctx context.Context, user id.UserID, device id.DeviceID) error {
	return s.DeleteDevices(ctx, user, device)
}

// LogoutAll ends all sessions of a user.
func (s *Server) LogoutAll(ctx context.Context, user id.UserID) error {
	return s.deleteDevicesBut(ctx, user, 0)
}

// loginTokenLife is how long a token for one login can be used.
//
// spec: client-server-api/index.md#legacy-login
const loginTokenLife = 2 * time.Minute

// MakeLoginToken is a token with which another client of the user can log in, once.
func (s *Server) MakeLoginToken(ctx context.Context, user id.UserID) (token string, life time.Duration, err error) {
	token, err = s.makeUserToken(ctx, "plt_", storage.LoginToken, user, loginTokenLife)
	return token, loginTokenLife, err
}

// UseLoginToken is the user who asked for the token. It can be used once.
func (s *Server) UseLoginToken(ctx context.Context, token string) (user id.UserID, err error) {
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		user, err = tx.DeleteUserToken(hashToken(token), storage.LoginToken, s.millis())
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return "", matrixerr.New(matrixerr.Forbidden, "the login token is not valid, or has been used")
	}
	return user, err
}

// openIDTokenLife is how long a token that proves who somebody is can be checked.
const openIDTokenLife = time.Hour

// MakeOpenIDToken is a token by which the user shows to a third party who they are.
//
// spec: client-server-api/modules/openid.md#openid
func (s *Server) MakeOpenIDToken(ctx context.Context, user id.UserID) (token string, life time.Duration, err error) {
	token, err = s.makeUserToken(ctx, "pot_", storage.OpenIDToken, user, openIDTokenLife)
	return token, openIDTokenLife, err
}

// CheckOpenIDToken is the user whom a token was made for.
func (s *Server) CheckOpenIDToken(ctx context.Context, token string) (id.UserID, error) {
	user, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (id.UserID, error) {
		return tx.GetUserToken(hashToken(token), storage.OpenIDToken, s.millis())
	})
	if errors.Is(err, storage.ErrNotFound) {
		return "", matrixerr.New(matrixerr.UnknownToken, "the token is not known, or has expired")
	}
	return user, err
}

func (s *Server) makeUserToken(ctx context.Context, prefix, kind string, user id.UserID, life time.Duration) (string, error) {
	token := newToken(prefix)
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		if err := s.sweep(tx); err != nil {
			return err
		}
		return tx.InsertUserToken(hashToken(token), kind, user, s.now().Add(life).UnixMilli())
	})
	return token, err
}
