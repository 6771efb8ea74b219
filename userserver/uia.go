package userserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"parley/internal/id"
	"parley/internal/mail"
	"parley/internal/matrixerr"
	"parley/storage"
)

// The stages of user-interactive authentication that there are here.
//
// spec: client-server-api/index.md#authentication-types
const (
	StagePassword          = "m.login.password"
	StageDummy             = "m.login.dummy"
	StageRegistrationToken = "m.login.registration_token"
	StageTerms             = "m.login.terms"
	StageEmail             = "m.login.email.identity"
)

// uiaLife is how long a client has for the stages.
const uiaLife = 15 * time.Minute

// Interaction is a request that needs user-interactive authentication.
type Interaction struct {
	// Operation says what is asked for, and of whom. Within a session it must stay the same.
	Operation string
	// User is whose password is asked for; "" where nobody is logged in.
	User id.UserID
	// Flows are the ways to authenticate, each a list of stages.
	Flows [][]string
	// Email is for what an address may have been shown to be one's own.
	Email mail.Kind
	// Params are what clients need to know for a stage.
	Params map[string]any
	// Auth is what the client gave as "auth", nil for nothing.
	Auth json.RawMessage
}

// Challenge is the error that tells a client what stages are left.
//
// spec: client-server-api/index.md#user-interactive-api-in-the-rest-api
type Challenge struct {
	Flows     [][]string
	Params    map[string]any
	Session   string
	Completed []string
	// Failed is why the stage that was tried is not complete, nil if none was.
	Failed *matrixerr.Error
}

// Error says that authentication is not complete.
func (c *Challenge) Error() string {
	if c.Failed != nil {
		return "user-interactive authentication: " + c.Failed.Error()
	}
	return "user-interactive authentication is not complete"
}

// Authenticated is what a client has proved: each complete stage, and what it was completed with.
type Authenticated map[string]string

// authDict is the "auth" of a request.
type authDict struct {
	Type       string     `json:"type"`
	Session    string     `json:"session"`
	Identifier Identifier `json:"identifier"`
	// User is what old clients give in place of Identifier.
	User     string `json:"user"`
	Password string `json:"password"`
	Token    string `json:"token"`
	ThreePID struct {
		SID    string `json:"sid"`
		Secret string `json:"client_secret"`
	} `json:"threepid_creds"`
}

// Identifier names a user who logs in.
//
// spec: client-server-api/index.md#identifier-types
type Identifier struct {
	Type string `json:"type"`
	User string `json:"user"`
	// Medium and Address are of m.id.thirdparty.
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

// Identify is the user whom an identifier means; legacy is the field that stood in its place
// once.
func (s *Server) Identify(ctx context.Context, i Identifier, legacy string) (id.UserID, error) {
	if i.Type == "m.id.thirdparty" {
		user, err := s.FindThreePID(ctx, i.Medium, i.Address)
		if matrixerr.Is(err, matrixerr.NotFound) {
			return "", wrongPassword()
		}
		return user, err
	}
	name, err := i.name(legacy)
	if err != nil {
		return "", err
	}
	return s.FindUser(name)
}

// name is the user ID or localpart that the identifier means.
func (i Identifier) name(legacy string) (string, error) {
	switch {
	case i.Type == "" && legacy != "":
		return legacy, nil
	case i.Type == "":
		return "", matrixerr.New(matrixerr.MissingParam, "an identifier is needed")
	case i.Type == "m.id.user" && i.User == "":
		return "", matrixerr.New(matrixerr.MissingParam, "the identifier has no user")
	case i.Type == "m.id.user":
		return i.User, nil
	case i.Type == "m.id.phone":
		return "", wrongPassword() // no account here has a number
	}
	return "", matrixerr.New(matrixerr.Unknown, "identifiers of type %.50q are not known here", i.Type).WithStatus(400)
}

func parseAuth(text json.RawMessage) (authDict, error) {
	var a authDict
	if len(text) == 0 || text[0] != '{' {
		return a, matrixerr.New(matrixerr.BadJSON, "auth is not an object")
	}
	if err := json.Unmarshal(text, &a); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return a, matrixerr.New(matrixerr.BadJSON, "auth.%s must not be a %s", wrong.Field, wrong.Value)
		}
		return a, matrixerr.New(matrixerr.NotJSON, "auth is not JSON")
	}
	if len(a.Session) > 64 || !cleanText(a.Session) {
		return a, matrixerr.New(matrixerr.InvalidParam, "auth.session was not made here")
	}
	return a, nil
}

// Interact takes a request one stage further. It gives what was proved when a flow is complete,
// and a [*Challenge] as the error when it is not.
//
// Nothing is written until a stage is complete and another one is left: a session that is not
// known is one in which nothing is complete.
func (s *Server) Interact(ctx context.Context, in Interaction) (Authenticated, error) {
	in.Operation = operationHash(in.Operation)
	c := &Challenge{Flows: in.Flows, Params: in.Params, Session: rand.Text()[:20] + "." + in.Operation}
	if in.Auth == nil || string(in.Auth) == "null" {
		return nil, c
	}
	auth, err := parseAuth(in.Auth)
	if err != nil {
		return nil, err
	}
	done, err := s.openInteraction(ctx, auth.Session, in.Operation)
	if err != nil {
		return nil, err
	}
	if err := done.keepFitting(&in); err != nil {
		return nil, err
	}
	if auth.Session != "" {
		c.Session = auth.Session
	}
	if other, err := s.namesAnother(ctx, &in, &auth); err != nil {
		return nil, err
	} else if other {
		return nil, matrixerr.New(matrixerr.Forbidden, "this request can be authenticated by %s alone", in.User)
	}
	if user := done[StagePassword]; in.User != "" && user != "" && user != string(in.User) {
		return nil, matrixerr.New(matrixerr.Forbidden, "somebody else gave their password in this session").WithStatus(403)
	}
	progress := false
	switch {
	case auth.Type == "": // asks how things stand
	case !inFlows(in.Flows, auth.Type):
		c.Failed = matrixerr.New(matrixerr.Unrecognized, "authentication of type %.50q is not one of the flows", auth.Type)
	case done[auth.Type] != "": // complete already, and not tried again
	case !isNext(in.Flows, done, auth.Type):
		c.Failed = matrixerr.New(matrixerr.Forbidden, "authentication of type %q is not the next stage of a flow", auth.Type)
	default:
		proof, err := s.tryStage(ctx, &in, &auth)
		var failed *matrixerr.Error
		if err != nil && !errors.As(err, &failed) {
			return nil, err
		}
		if c.Failed = failed; failed == nil {
			done[auth.Type], progress = proof, true
		}
	}
	if complete(in.Flows, done) {
		return done, s.closeInteraction(ctx, auth.Session, progress && len(done) == 1)
	}
	for stage := range done {
		c.Completed = append(c.Completed, stage)
	}
	slices.Sort(c.Completed)
	if progress {
		if err := s.keepInteraction(ctx, c.Session, in.Operation, done); err != nil {
			return nil, err
		}
	}
	return nil, c
}

// tryStage is the proof of a stage that is now complete, or a *matrixerr.Error that says why
// it is not.
func (s *Server) tryStage(ctx context.Context, in *Interaction, auth *authDict) (proof string, err error) {
	switch auth.Type {
	case StageDummy, StageTerms:
		return "yes", nil
	case StagePassword:
		user, err := s.Identify(ctx, auth.Identifier, auth.User)
		if err != nil {
			return "", err
		}
		return string(user), s.CheckPassword(ctx, user, auth.Password)
	case StageEmail:
		return s.tryEmail(ctx, in, auth)
	case StageRegistrationToken:
		ok, err := s.CheckRegistrationToken(ctx, auth.Token)
		if err != nil {
			return "", err
		}
		if !ok {
			return "", matrixerr.New(matrixerr.Unauthorized, "the registration token is not valid")
		}
		return auth.Token, nil
	}
	return "", matrixerr.New(matrixerr.Unrecognized, "authentication of type %.50q is not known here", auth.Type)
}

// namesAnother tells whether a password is given for somebody else than the one whose it must be.
func (s *Server) namesAnother(ctx context.Context, in *Interaction, auth *authDict) (bool, error) {
	if in.User == "" || auth.Type != StagePassword {
		return false, nil
	}
	user, err := s.Identify(ctx, auth.Identifier, auth.User)
	return err == nil && user != in.User, nil // the stage will say what is wrong
}

func inFlows(flows [][]string, stage string) bool {
	return slices.ContainsFunc(flows, func(flow []string) bool { return slices.Contains(flow, stage) })
}

// isNext says whether a stage comes next in a flow, of which all before it is done.
func isNext(flows [][]string, done Authenticated, stage string) bool {
	return slices.ContainsFunc(flows, func(flow []string) bool {
		for _, s := range flow {
			if s == stage {
				return true
			}
			if done[s] == "" {
				return false
			}
		}
		return false
	})
}

func complete(flows [][]string, done Authenticated) bool {
	return slices.ContainsFunc(flows, func(flow []string) bool {
		return !slices.ContainsFunc(flow, func(stage string) bool { return done[stage] == "" })
	})
}

// openInteraction is what is complete in a session.
func (s *Server) openInteraction(ctx context.Context, session, operation string) (Authenticated, error) {
	done := make(Authenticated)
	if session == "" {
		return done, nil
	}
	if _, of, ok := strings.Cut(session, "."); ok && of != operation {
		return nil, anotherOperation()
	}
	row, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.UIASession, error) {
		return tx.GetUIASession(session, s.millis())
	})
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return done, nil
	case err != nil:
		return nil, err
	case row.Operation != operation:
		return nil, anotherOperation()
	}
	return done, json.Unmarshal([]byte(row.Done), &done)
}

func anotherOperation() error {
	return matrixerr.New(matrixerr.Forbidden, "this authentication session was begun for another request").WithStatus(403)
}

// operationHash names what is asked for in a session's name, so that the session is bound to
// it before anything is written of it.
func operationHash(operation string) string {
	sum := sha256.Sum256([]byte(operation))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// CompleteStage completes a stage of a session on behalf of a client that does not know how
// to. The stages are those of the request that the session was begun for, which comes again.
//
// spec: client-server-api/index.md#fallback
func (s *Server) CompleteStage(ctx context.Context, session string, auth json.RawMessage) error {
	_, operation, ok := strings.Cut(session, ".")
	if !ok || len(session) > 64 || !cleanText(session) {
		return matrixerr.New(matrixerr.InvalidParam, "there is no such authentication session")
	}
	a, err := parseAuth(auth)
	if err != nil {
		return err
	}
	done, err := s.openInteraction(ctx, session, operation)
	if err != nil || done[a.Type] != "" && a.Type != StageEmail { // which may have been done for something else
		return err
	}
	proof, err := s.tryStage(ctx, &Interaction{}, &a)
	if err != nil {
		return err
	}
	done[a.Type] = proof
	return s.keepInteraction(ctx, session, operation, done)
}

func (s *Server) keepInteraction(ctx context.Context, session, operation string, done Authenticated) error {
	text, err := json.Marshal(done)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		if err := s.sweep(tx); err != nil {
			return err
		}
		return tx.InsertUIASession(&storage.UIASession{Session: session, Operation: operation, Done: string(text),
			Expires: s.now().Add(uiaLife).UnixMilli()})
	})
}

// closeInteraction ends a session that is complete; unkept says that it was never written.
func (s *Server) closeInteraction(ctx context.Context, session string, unkept bool) error {
	if unkept || session == "" {
		return nil
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteUIASession(session) })
}

// CheckRegistrationToken says whether an account can be made with the token now.
//
// spec: client-server-api/index.md#token-authenticated-registration
func (s *Server) CheckRegistrationToken(ctx context.Context, token string) (bool, error) {
	if s.isFixedToken(token) {
		return true, nil
	}
	if !opaque(token) {
		return false, nil
	}
	t, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.RegistrationToken, error) { return tx.GetRegistrationToken(token) })
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return err == nil && (t.UsesAllowed < 0 || t.Used < t.UsesAllowed) && (t.Expires == 0 || t.Expires > s.millis()), err
}

// isFixedToken says whether token is the one of the configuration, which can be used without end.
func (s *Server) isFixedToken(token string) bool {
	return s.regToken != "" && subtle.ConstantTimeCompare([]byte(token), []byte(s.regToken)) == 1
}

// AddRegistrationToken makes a token with which accounts can be registered.
func (s *Server) AddRegistrationToken(ctx context.Context, t storage.RegistrationToken) error {
	if t.Token == "" || len(t.Token) > 64 || !opaque(t.Token) {
		return matrixerr.New(matrixerr.InvalidParam, "a registration token has 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -")
	}
	t.Created = s.millis()
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		inserted, err := tx.InsertRegistrationToken(&t)
		if err == nil && !inserted {
			err = matrixerr.New(matrixerr.InvalidParam, "there is a registration token of that name")
		}
		return err
	})
}

// opaque says whether s has only the characters of opaque identifiers.
//
// spec: appendices.md#opaque-identifiers
func opaque(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '.' && c != '_' && c != '~' && c != '-' {
			return false
		}
	}
	return s != ""
}
