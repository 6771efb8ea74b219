package userserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	netmail "net/mail"
	"net/url"
	"regexp"
	"strings"
	"time"

	"parley/internal/id"
	"parley/internal/mail"
	"parley/internal/matrixerr"
	"parley/storage"
)

const (
	// mediumEmail is the one kind of address that can be shown to be one's own here.
	mediumEmail = "email"
	// threePIDLife is how long a link of a mail can be followed, and what it shows be used.
	threePIDLife = time.Hour
	// maxThreePIDs bounds the addresses of an account.
	maxThreePIDs = 20
	// maxAddress bounds the length of an address.
	//
	// spec: appendices.md#3pid-types
	maxAddress = 500
)

// ConfirmPath is where the links of mails lead.
const ConfirmPath = "/_parley/email/confirm"

var clientSecret = regexp.MustCompile(`^[0-9a-zA-Z.=_-]{1,255}$`)

// IdentityServers tells identity servers of users' addresses, and asks them.
//
// spec: identity-service-api.md
type IdentityServers interface {
	// Bind tells a server, to which the client showed that an address is its own, whose it is.
	Bind(ctx context.Context, server, token, sid, secret string, user id.UserID) (medium, address string, err error)
	// Unbind has a server forget that.
	Unbind(ctx context.Context, server string, user id.UserID, medium, address string) error
}

// HasMail says whether addresses can be shown to be one's own.
func (s *Server) HasMail() bool { return s.mailer != nil }

// canonicalEmail is an address in the form in which it is kept.
//
// spec: appendices.md#3pid-types
func canonicalEmail(address string) (string, error) {
	a, err := netmail.ParseAddress(address)
	if err != nil || a.Name != "" || a.Address != address || len(address) > maxAddress || !cleanText(address) {
		return "", matrixerr.New(matrixerr.InvalidParam, "%.100q is not an email address", address)
	}
	return strings.ToLower(address), nil
}

// canonicalAddress is canonicalEmail for any medium, for looking up what is there.
func canonicalAddress(medium, address string) string {
	if medium == mediumEmail {
		return strings.ToLower(address)
	}
	return address
}

// EmailRequest asks for a mail with which somebody shows that an address is theirs.
type EmailRequest struct {
	Email    string
	Secret   string
	Attempt  int64
	NextLink string
	// Purpose is what the address is to be used for.
	Purpose mail.Kind
}

// RequestEmail sends a mail with a link, and gives the session whose proof it will be.
//
// spec: client-server-api/index.md#post_matrixclientv3account3pidemailrequesttoken
func (s *Server) RequestEmail(ctx context.Context, r EmailRequest) (sid string, err error) {
	if s.mailer == nil {
		return "", matrixerr.New(matrixerr.ThreepidDenied, "this server sends no mail")
	}
	if !clientSecret.MatchString(r.Secret) {
		return "", matrixerr.New(matrixerr.InvalidParam, "client_secret is not of 1 to 255 of the characters 0-9 a-z A-Z . = _ -")
	}
	address, err := canonicalEmail(r.Email)
	if err != nil {
		return "", err
	}
	if link, err := url.Parse(r.NextLink); r.NextLink != "" && (err != nil || link.Scheme != "https" && link.Scheme != "http" || len(r.NextLink) > 2000) {
		return "", matrixerr.New(matrixerr.InvalidParam, "next_link is not the URL of a page")
	}
	token := rand.Text()
	hash := sha256.Sum256([]byte(token))
	row := storage.ThreePIDSession{Medium: mediumEmail, Address: address, Secret: r.Secret, Attempt: r.Attempt,
		Token: hash[:], NextLink: r.NextLink, Purpose: string(r.Purpose), Expires: s.now().Add(threePIDLife).UnixMilli()}
	send := false
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		if err := s.sweep(tx); err != nil {
			return err
		}
		if err := mayUseAddress(tx, r.Purpose, address); err != nil {
			return err
		}
		before, err := tx.FindThreePIDSession(mediumEmail, address, r.Secret, string(r.Purpose), s.millis())
		switch {
		case errors.Is(err, storage.ErrNotFound):
			row.SID = rand.Text()
		case err != nil:
			return err
		case before.Attempt >= r.Attempt:
			row.SID, send = before.SID, false
			return nil
		default:
			row.SID, row.Validated = before.SID, before.Validated
		}
		send = true
		return tx.InsertThreePIDSession(&row)
	})
	if err != nil || !send {
		return row.SID, err
	}
	query := url.Values{"sid": {row.SID}, "client_secret": {r.Secret}, "token": {token}}
	if err := s.mailer.Send(ctx, r.Email, r.Purpose, strings.TrimSuffix(s.publicURL, "/")+ConfirmPath+"?"+query.Encode()); err != nil {
		s.log.Error("send mail", "error", err)
		forget := s.db.Write(context.WithoutCancel(ctx), func(tx *storage.Tx) error { return tx.DeleteThreePIDSession(row.SID) })
		return "", errors.Join(matrixerr.New(matrixerr.Unknown, "the mail could not be sent").WithStatus(500), forget)
	}
	return row.SID, nil
}

// mayUseAddress says whether an address is free to be used, or for a new password, whether
// there is an account of that address.
func mayUseAddress(tx *storage.Tx, purpose mail.Kind, address string) error {
	_, err := tx.GetThreePID(mediumEmail, address)
	missing := errors.Is(err, storage.ErrNotFound)
	switch {
	case err != nil && !missing:
		return err
	case purpose == mail.Reset && missing:
		return matrixerr.New(matrixerr.ThreepidNotFound, "no account has this address")
	case purpose != mail.Reset && !missing:
		return matrixerr.New(matrixerr.ThreepidInUse, "this address is in use")
	}
	return nil
}

// ConfirmEmail takes what a mail's link says. It gives the page to which to send its reader
// on, "" for none.
func (s *Server) ConfirmEmail(ctx context.Context, sid, secret, token string) (next string, err error) {
	hash := sha256.Sum256([]byte(token))
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		row, err := s.threePIDSession(tx, sid, secret)
		if err != nil {
			return err
		}
		if subtle.ConstantTimeCompare(row.Token, hash[:]) != 1 {
			return threePIDAuthFailed()
		}
		next = row.NextLink
		if row.Validated != 0 {
			return nil
		}
		row.Validated = s.millis()
		return tx.InsertThreePIDSession(&row)
	})
	return next, err
}

func threePIDAuthFailed() *matrixerr.Error {
	return matrixerr.New(matrixerr.ThreepidAuthFailed, "it was not shown that the address is yours: follow the link in the mail, or ask for another")
}

func (s *Server) threePIDSession(tx *storage.Tx, sid, secret string) (storage.ThreePIDSession, error) {
	row, err := tx.GetThreePIDSession(sid, s.millis())
	if errors.Is(err, storage.ErrNotFound) || err == nil && subtle.ConstantTimeCompare([]byte(row.Secret), []byte(secret)) != 1 {
		return row, threePIDAuthFailed()
	}
	return row, err
}

// validated is a session in which it was shown that an address is one's own.
func (s *Server) validated(tx *storage.Tx, sid, secret string, purpose mail.Kind) (storage.ThreePIDSession, error) {
	row, err := s.threePIDSession(tx, sid, secret)
	if err == nil && (row.Validated == 0 || row.Purpose != string(purpose)) {
		err = threePIDAuthFailed()
	}
	return row, err
}

// AddThreePID adds an address to an account, for which it was shown to be its owner's.
//
// spec: client-server-api/index.md#post_matrixclientv3account3pidadd
func (s *Server) AddThreePID(ctx context.Context, user id.UserID, sid, secret string) error {
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		row, err := s.validated(tx, sid, secret, mail.Add)
		if err != nil {
			return err
		}
		return s.addThreePID(tx, user, &row)
	})
}

func (s *Server) addThreePID(tx *storage.Tx, user id.UserID, row *storage.ThreePIDSession) error {
	have, err := tx.ListThreePIDs(user)
	if err != nil {
		return err
	}
	if len(have) >= maxThreePIDs {
		return matrixerr.New(matrixerr.ThreepidDenied, "an account has no more than %d addresses", maxThreePIDs)
	}
	inserted, err := tx.InsertThreePID(&storage.ThreePID{Medium: row.Medium, Address: row.Address, User: user, Validated: row.Validated, Added: s.millis()})
	if err == nil && !inserted {
		err = matrixerr.New(matrixerr.ThreepidInUse, "this address is in use")
	}
	if err != nil {
		return err
	}
	return tx.DeleteThreePIDSession(row.SID)
}

// ListThreePIDs are the addresses of an account.
func (s *Server) ListThreePIDs(ctx context.Context, user id.UserID) ([]storage.ThreePID, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.ThreePID, error) { return tx.ListThreePIDs(user) })
}

// FindThreePID is the user whose address it is; M_NOT_FOUND where it is nobody's.
func (s *Server) FindThreePID(ctx context.Context, medium, address string) (id.UserID, error) {
	p, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.ThreePID, error) {
		return tx.GetThreePID(medium, canonicalAddress(medium, address))
	})
	return p.User, notFound(err, "no account has this address")
}

// BindThreePID has an identity server know whose address it is.
//
// spec: client-server-api/index.md#post_matrixclientv3account3pidbind
func (s *Server) BindThreePID(ctx context.Context, user id.UserID, server, token, sid, secret string) error {
	if s.identity == nil {
		return matrixerr.New(matrixerr.ServerNotTrusted, "this server talks to no identity servers")
	}
	medium, address, err := s.identity.Bind(ctx, server, token, sid, secret, user)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		return tx.InsertBinding(user, medium, canonicalAddress(medium, address), server)
	})
}

// UnbindThreePID has identity servers forget an address: the one that is named, or all that
// were told through us. unbound is false when one of them could not be reached, or is told
// nothing by us.
//
// spec: client-server-api/index.md#post_matrixclientv3account3pidunbind
func (s *Server) UnbindThreePID(ctx context.Context, user id.UserID, server, medium, address string) (unbound bool, err error) {
	return s.unbind(ctx, user, func(b storage.Binding) bool {
		return b.Medium == medium && b.Address == canonicalAddress(medium, address) && (server == "" || b.Server == server)
	})
}

func (s *Server) unbind(ctx context.Context, user id.UserID, which func(storage.Binding) bool) (unbound bool, err error) {
	bindings, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.Binding, error) { return tx.ListBindings(user) })
	if err != nil {
		return false, err
	}
	unbound = true
	for _, b := range bindings {
		if !which(b) {
			continue
		}
		if s.identity == nil {
			unbound = false
			continue
		}
		if err := s.identity.Unbind(ctx, b.Server, user, b.Medium, b.Address); err != nil {
			s.log.Warn("have an identity server forget an address", "server", b.Server, "error", err)
			unbound = false
			continue
		}
		if err := s.db.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteBinding(user, b) }); err != nil {
			return false, err
		}
	}
	return unbound, nil
}

// DeleteThreePID takes an address from an account, and has identity servers forget it.
//
// spec: client-server-api/index.md#post_matrixclientv3account3piddelete
func (s *Server) DeleteThreePID(ctx context.Context, user id.UserID, server, medium, address string) (unbound bool, err error) {
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		return tx.DeleteThreePID(user, medium, canonicalAddress(medium, address))
	})
	if err != nil {
		return false, err
	}
	return s.UnbindThreePID(ctx, user, server, medium, address)
}

// emailProof is what the stage m.login.email.identity was completed with.
type emailProof struct {
	SID     string    `json:"sid"`
	Address string    `json:"address"`
	User    id.UserID `json:"user,omitempty"`
	Purpose mail.Kind `json:"purpose"`
}

// tryEmail is the stage m.login.email.identity.
//
// spec: client-server-api/index.md#email-based-identity--homeserver
func (s *Server) tryEmail(ctx context.Context, in *Interaction, auth *authDict) (string, error) {
	var p emailProof
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		row, err := s.threePIDSession(tx, auth.ThreePID.SID, auth.ThreePID.Secret)
		if err != nil {
			return err
		}
		p = emailProof{SID: row.SID, Address: row.Address, Purpose: mail.Kind(row.Purpose)}
		if row.Validated == 0 || in.Email != "" && p.Purpose != in.Email {
			return threePIDAuthFailed()
		}
		if p.Purpose != mail.Reset {
			return nil
		}
		owner, err := tx.GetThreePID(row.Medium, row.Address)
		if errors.Is(err, storage.ErrNotFound) || err == nil && in.User != "" && owner.User != in.User {
			return matrixerr.New(matrixerr.ThreepidAuthFailed, "the address is not of this account")
		}
		p.User = owner.User
		return err
	})
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("note the proof of an address: %w", err)
	}
	return string(text), nil
}

// RequestFallbackEmail is RequestEmail for one who is in the middle of an interaction of which is not known what it is
// for: with the address of an account they may want a new password, and with one that is free an account. Which of the
// two it is, is not told.
func (s *Server) RequestFallbackEmail(ctx context.Context, email string, accounts bool) (sid, secret string, err error) {
	r := EmailRequest{Email: email, Secret: rand.Text(), Attempt: 1, Purpose: mail.Reset}
	_, err = s.FindThreePID(ctx, mediumEmail, email)
	switch {
	case matrixerr.Is(err, matrixerr.NotFound) && !accounts:
		return rand.Text(), r.Secret, nil
	case matrixerr.Is(err, matrixerr.NotFound):
		r.Purpose = mail.Register
	case err != nil:
		return "", "", err
	}
	sid, err = s.RequestEmail(ctx, r)
	return sid, r.Secret, err
}

// keepFitting drops the proof of an address that was given for something else than what is asked for, as a page can't
// know what that is. It may not be that of another user's address.
func (a Authenticated) keepFitting(in *Interaction) error {
	p := a.email()
	if a[StageEmail] != "" && p.Purpose != in.Email {
		delete(a, StageEmail)
	} else if p.User != "" && in.User != "" && p.User != in.User {
		return matrixerr.New(matrixerr.Forbidden, "somebody else gave their address in this session").WithStatus(403)
	}
	return nil
}

// User is who authenticated: by password, or by the address of their account.
func (a Authenticated) User() id.UserID {
	if user := a[StagePassword]; user != "" {
		return id.UserID(user)
	}
	return a.email().User
}

// EmailSession is the session in which a new user showed that an address is theirs, "" for none.
func (a Authenticated) EmailSession() string { return a.email().SID }

func (a Authenticated) email() (p emailProof) {
	if text := a[StageEmail]; text != "" && json.Unmarshal([]byte(text), &p) != nil {
		return emailProof{}
	}
	return p
}
