package userserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/words"
	"parley/storage"
)

// Registration is a new account.
type Registration struct {
	// Localpart is "" to have one made up.
	Localpart string
	// Password is "" where nobody is to log in with one.
	Password string
	Admin    bool
	Guest    bool
	// GuestToken is the access token of a guest whose account is to become a full one, "" for a new
	// account. Localpart is then the guest's.
	GuestToken string
	// Token is the registration token that allows this, "" where none is needed.
	Token string
	// EmailSession is the session in which the new user showed that an address is theirs, "" for none.
	EmailSession string
	// Limited says that the bound of accounts holds for this one.
	Limited bool
	// Service is the application service that the account belongs to, "" for none.
	Service string
	// NoLogin asks for the account alone.
	NoLogin bool
	Session NewSession
}

// NewUserID is the user ID that a registration under the given name would get.
//
// spec: appendices.md#user-identifiers
func (s *Server) NewUserID(localpart string) (id.UserID, error) {
	localpart = strings.ToLower(localpart)
	if !id.ValidLocalpart(localpart) {
		return "", matrixerr.New(matrixerr.InvalidUsername, "a user's name may have only the characters a-z, 0-9 and ._=-/+")
	}
	user := id.NewUserID(localpart, s.name)
	if len(user) > id.MaxLength {
		return "", matrixerr.New(matrixerr.InvalidUsername, "the user ID would be longer than %d bytes", id.MaxLength)
	}
	return user, nil
}

// Available says why an account of that name cannot be made, or nil.
func (s *Server) Available(ctx context.Context, localpart string) error {
	user, err := s.NewUserID(localpart)
	if err != nil {
		return err
	}
	_, err = storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.User, error) { return tx.GetUser(user) })
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return inUse(user)
}

// MayRegister says why an account of that name cannot be had, or nil: by one who has no account, or by
// the guest whose it is, and who shows it by an access token.
//
// spec: client-server-api/modules/guest_access.md#guest-access
func (s *Server) MayRegister(ctx context.Context, localpart, guestToken string) error {
	if guestToken == "" {
		return s.Available(ctx, localpart)
	}
	user, err := s.NewUserID(localpart)
	if err != nil {
		return err
	}
	t, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.TokenOwner, error) { return tx.GetToken(hashToken(guestToken), false) })
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if err != nil || t.User.ID != user || !t.User.Guest || t.Expires != 0 && t.Expires <= s.millis() {
		return matrixerr.New(matrixerr.Forbidden, "the guest access token is not one of the guest %s", user)
	}
	return refuse(&t.User)
}

func inUse(user id.UserID) error {
	return matrixerr.New(matrixerr.UserInUse, "there is an account %s already", user)
}

// Register makes an account and, unless NoLogin is set, logs in to it.
//
// spec: client-server-api/index.md#legacy-account-registration
func (s *Server) Register(ctx context.Context, r Registration) (Session, error) {
	if r.Localpart == "" {
		r.Localpart = strings.ToLower(rand.Text()[:12])
	}
	user, err := s.NewUserID(r.Localpart)
	if err != nil {
		return Session{}, err
	}
	if err := r.Session.validate(); err != nil {
		return Session{}, err
	}
	u := storage.User{ID: user, Created: s.millis(), Admin: r.Admin, Guest: r.Guest, AppService: r.Service}
	if r.Password != "" {
		if err := s.ValidatePassword(r.Password); err != nil {
			return Session{}, err
		}
		if err := s.MayRegister(ctx, r.Localpart, r.GuestToken); err != nil {
			return Session{}, err // before the work of hashing
		}
		if u.Password, err = s.hasher.hash(ctx, r.Password); err != nil {
			return Session{}, err
		}
	}
	out := Session{User: user}
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		if r.Limited && s.maxUsers > 0 {
			n, err := tx.CountUsers()
			if err != nil {
				return err
			}
			if n >= s.maxUsers {
				return matrixerr.New(matrixerr.ResourceLimitExceeded, "this server has as many users as it takes")
			}
		}
		if r.GuestToken != "" {
			if err := upgrade(tx, &u); err != nil {
				return err
			}
		} else if inserted, err := tx.InsertUser(&u); err != nil {
			return err
		} else if !inserted {
			return inUse(user)
		} else if err := tx.InsertDirectory(user, words.Phrases(user, "")); err != nil {
			return err
		}
		if r.EmailSession != "" {
			row, err := tx.GetThreePIDSession(r.EmailSession, s.millis())
			if err != nil {
				return notFound(err, "the session of the address has expired")
			}
			if err := s.addThreePID(tx, user, &row); err != nil {
				return err
			}
		}
		if r.Token != "" && !s.isFixedToken(r.Token) {
			ok, err := tx.UpdateRegistrationTokenUsed(r.Token, s.millis())
			if err != nil {
				return err
			}
			if !ok {
				return matrixerr.New(matrixerr.Unauthorized, "the registration token is not valid any more").WithStatus(401)
			}
		}
		if !r.NoLogin {
			out, err = s.openSession(tx, user, r.Session, true)
		}
		return err
	})
	if err != nil {
		return Session{}, err
	}
	s.cache.drop(user)
	return out, nil
}

// upgrade makes a guest's account a full one.
func upgrade(tx *storage.Tx, u *storage.User) error {
	guest, err := tx.LockUser(u.ID)
	if err != nil {
		return notFound(err, "there is no guest %s", u.ID)
	}
	if !guest.Guest || guest.Deactivated {
		return inUse(u.ID)
	}
	guest.Guest, guest.Password = false, u.Password
	return tx.UpdateUser(&guest)
}

// FindUser is the user ID that somebody means who writes a user ID or a localpart of ours.
func (s *Server) FindUser(name string) (id.UserID, error) {
	if !strings.HasPrefix(name, "@") {
		user, err := s.NewUserID(name)
		if err != nil {
			return "", wrongPassword()
		}
		return user, nil
	}
	user, err := id.ParseUserID(name)
	if err != nil {
		return "", matrixerr.New(matrixerr.InvalidParam, "%v", err)
	}
	if !s.Local(user) {
		return "", wrongPassword()
	}
	return id.NewUserID(strings.ToLower(user.Localpart()), s.name), nil
}

func wrongPassword() *matrixerr.Error {
	return matrixerr.New(matrixerr.Forbidden, "the user name or the password is wrong").WithStatus(403)
}

// CheckPassword says whether the password is the user's: nil, or why not. A user who is not
// there and a wrong password cannot be told apart.
func (s *Server) CheckPassword(ctx context.Context, user id.UserID, password string) error {
	u, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.User, error) { return tx.GetUser(user) })
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	ok, err := s.hasher.check(ctx, u.Password, password)
	switch {
	case err != nil:
		return fmt.Errorf("check the password of %s: %w", user, err)
	case u.Deactivated:
		return refuse(&u)
	case !ok:
		return wrongPassword()
	}
	return nil
}

// ChangePassword sets a password. If logout is set, all devices but keep (0 for none) are
// removed, and their sessions and pushers with them.
//
// spec: client-server-api/index.md#password-management
func (s *Server) ChangePassword(ctx context.Context, user id.UserID, password string, logout bool, keep int64) error {
	if err := s.ValidatePassword(password); err != nil {
		return err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return err
	}
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		u, err := tx.LockUser(user)
		if err != nil {
			return notFound(err, "there is no user %s", user)
		}
		if u.Deactivated {
			return refuse(&u)
		}
		u.Password = hash
		if err := tx.UpdateUser(&u); err != nil {
			return err
		}
		if err := tx.DeleteUserTokens(user); err != nil {
			return err
		}
		if !logout {
			return nil
		}
		return deleteDevicesBut(tx, user, keep)
	})
	if err == nil {
		s.cache.drop(user)
	}
	return err
}

// Deactivate ends an account for ever: nobody can log in to it, its user leaves all rooms.
// It may be called again for an account whose user could not leave all of them. unbound says
// that identity servers know nothing of the user through us any more.
//
// spec: client-server-api/index.md#account-deactivation
func (s *Server) Deactivate(ctx context.Context, user id.UserID, erase bool) (unbound bool, err error) {
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		u, err := tx.LockUser(user)
		if err != nil {
			return notFound(err, "there is no user %s", user)
		}
		u.Deactivated, u.Password = true, ""
		if err := tx.UpdateUser(&u); err != nil {
			return err
		}
		if erase {
			if err := tx.UpdateUserErased(user); err != nil {
				return err
			}
		}
		for _, remove := range []func(id.UserID) error{
			func(id.UserID) error { return unlist(tx, user) },
			tx.DeleteProfile, tx.DeleteAccountData, tx.DeleteFilters, tx.DeleteUserTokens, tx.DeletePushers,
			tx.DeleteUserEncryption, tx.DeleteThreadSubscriptions, tx.DeleteThreePIDs,
		} {
			if err := remove(user); err != nil {
				return err
			}
		}
		return deleteDevicesBut(tx, user, 0)
	})
	if err != nil {
		return false, err
	}
	s.cache.drop(user)
	if err := s.rooms.LeaveAll(ctx, user); err != nil {
		return false, fmt.Errorf("leave the rooms of %s: %w", user, err)
	}
	return s.unbind(ctx, user, func(storage.Binding) bool { return true })
}

// UpdateUser changes an account's flags: fn is given it, and sets what is to be set.
func (s *Server) UpdateUser(ctx context.Context, user id.UserID, fn func(*storage.User)) error {
	err := s.db.Write(ctx, func(tx *storage.Tx) error {
		u, err := tx.LockUser(user)
		if err != nil {
			return notFound(err, "there is no user %s", user)
		}
		fn(&u)
		return tx.UpdateUser(&u)
	})
	if err == nil {
		s.cache.drop(user)
	}
	return err
}

// cleanText is true for valid UTF-8 without NUL, which no database column takes.
func cleanText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }
