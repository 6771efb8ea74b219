package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/mail"
	"parley/internal/matrixerr"
	"parley/userserver"
)

// Registration says who may make an account.
type Registration struct {
	// Open lets anyone.
	Open bool
	// Token lets whoever knows a registration token.
	Token bool
	// Guests lets anyone have an account that has no password and can do little.
	Guests bool
	// Terms are the policies that new users must accept.
	Terms []Terms
	// SharedSecret lets programs that know it; "" for none. See sharedSecretRegister.
	SharedSecret string
	// Email lets people show, when they register, that an address is theirs; RequireEmail has
	// them do so.
	Email, RequireEmail bool
}

// Terms are a policy that new users must accept.
//
// spec: client-server-api/index.md#terms-of-service-at-registration
type Terms struct {
	// Name is for programs, Title for people.
	Name, Version, Title, URL string
}

// flows are the ways to authenticate a registration; none where nobody can register.
func (g *Registration) flows() [][]string {
	var flow []string
	switch {
	case g.Token && !g.Open:
		flow = []string{userserver.StageRegistrationToken}
	case g.Open:
	default:
		return nil
	}
	if g.Terms != nil {
		flow = append(flow, userserver.StageTerms)
	}
	withEmail := append(slices.Clip(flow), userserver.StageEmail)
	if flow == nil {
		flow = []string{userserver.StageDummy}
	}
	switch {
	case g.RequireEmail:
		return [][]string{withEmail}
	case g.Email:
		return [][]string{flow, withEmail}
	}
	return [][]string{flow}
}

func (g *Registration) params() map[string]any {
	if g.Terms == nil {
		return nil
	}
	policies := make(map[string]any, len(g.Terms))
	for _, t := range g.Terms {
		policies[t.Name] = map[string]any{"version": t.Version, "en": map[string]string{"name": t.Title, "url": t.URL}}
	}
	return map[string]any{userserver.StageTerms: map[string]any{"policies": policies}}
}

func (a *API) registerRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodPost, Path: v3 + "/register", Auth: httpapi.None, Handler: httpapi.Handle(a.register)},
		{Method: http.MethodGet, Path: v3 + "/register/available", Auth: httpapi.None, Rate: httpapi.RateLogin, Handler: httpapi.Handle(a.registerAvailable)},
		{Method: http.MethodGet, Path: v1 + "/register/m.login.registration_token/validity", Auth: httpapi.None, Rate: httpapi.RateLogin,
			Handler: httpapi.Handle(a.registrationTokenValidity)},
		{Method: http.MethodGet, Path: "/_synapse/admin/v1/register", Auth: httpapi.None, Handler: httpapi.Handle(a.sharedSecretNonce)},
		{Method: http.MethodPost, Path: "/_synapse/admin/v1/register", Auth: httpapi.None, Handler: httpapi.Handle(a.sharedSecretRegister)},
	}
}

type registerRequest struct {
	Kind         string          `query:"kind"`
	Type         string          `json:"type"`
	Auth         json.RawMessage `json:"auth"`
	Username     string          `json:"username"`
	Password     string          `json:"password"`
	Device       id.DeviceID     `json:"device_id"`
	DisplayName  string          `json:"initial_device_display_name"`
	InhibitLogin bool            `json:"inhibit_login"`
	// GuestToken is that of a guest who becomes a user.
	GuestToken   string `json:"guest_access_token"`
	RefreshToken bool   `json:"refresh_token"`
}

type sessionResponse struct {
	UserID       id.UserID          `json:"user_id"`
	AccessToken  string             `json:"access_token,omitempty"`
	Device       id.DeviceID        `json:"device_id,omitempty"`
	RefreshToken string             `json:"refresh_token,omitempty"`
	ExpiresIn    int64              `json:"expires_in_ms,omitempty"`
	WellKnown    *wellKnownResponse `json:"well_known,omitempty"`
	HomeServer   id.ServerName      `json:"home_server,omitempty"`
}

func newSessionResponse(s *userserver.Session) *sessionResponse {
	return &sessionResponse{UserID: s.User, AccessToken: s.AccessToken, Device: s.Device,
		RefreshToken: s.RefreshToken, ExpiresIn: millis(s.ExpiresIn)}
}

// spec: client-server-api/index.md#legacy-account-registration
func (a *API) register(ctx context.Context, r *httpapi.Request, in *registerRequest) (*sessionResponse, error) {
	session := userserver.NewSession{Device: in.Device, DisplayName: in.DisplayName, Refresh: in.RefreshToken, IP: ipString(r.IP)}
	if in.Type == stageAppService {
		return a.registerService(ctx, r, in, session)
	}
	switch in.Kind {
	case "guest":
		return a.registerGuest(ctx, r, session)
	case "", "user":
	default:
		return nil, matrixerr.New(matrixerr.InvalidParam, "kind is neither user nor guest")
	}
	flows := a.registration.flows()
	if flows == nil {
		return nil, matrixerr.New(matrixerr.Forbidden, "registration is disabled")
	}
	// What can be said at once is said before the stages.
	if in.Username != "" {
		if err := a.mayRegister(in.Username); err != nil {
			return nil, err
		}
		if err := a.users.MayRegister(ctx, in.Username, in.GuestToken); err != nil {
			return nil, err
		}
	} else if in.GuestToken != "" {
		return nil, matrixerr.New(matrixerr.MissingParam, "username is missing: it must be the guest's")
	}
	if in.Password != "" {
		if err := a.users.ValidatePassword(in.Password); err != nil {
			return nil, err
		}
	}
	// The question what the stages are is free; an attempt counts.
	if in.Auth != nil {
		if err := r.Limit(httpapi.RateRegister, network(r.IP)); err != nil {
			return nil, err
		}
	}
	done, err := a.interact(ctx, userserver.Interaction{Flows: flows, Email: mail.Register, Params: a.registration.params(), Auth: in.Auth}, "register")
	if err != nil {
		return nil, err
	}
	if in.Password == "" {
		return nil, matrixerr.New(matrixerr.MissingParam, "password is missing")
	}
	s, err := a.users.Register(ctx, userserver.Registration{
		Localpart: in.Username, Password: in.Password, GuestToken: in.GuestToken, Token: done[userserver.StageRegistrationToken],
		EmailSession: done.EmailSession(), Limited: true, NoLogin: in.InhibitLogin, Session: session,
	})
	if err != nil {
		return nil, err
	}
	return newSessionResponse(&s), nil
}

// registerGuest makes a guest account. All but the device's name is ours to choose.
//
// spec: client-server-api/modules/guest_access.md#client-behaviour
func (a *API) registerGuest(ctx context.Context, r *httpapi.Request, session userserver.NewSession) (*sessionResponse, error) {
	if !a.registration.Guests {
		return nil, matrixerr.New(matrixerr.GuestAccessForbidden, "this server has no guests")
	}
	if err := r.Limit(httpapi.RateRegister, network(r.IP)); err != nil {
		return nil, err
	}
	session.Device, session.Refresh = "", false
	s, err := a.users.Register(ctx, userserver.Registration{Guest: true, Limited: true, Session: session})
	if err != nil {
		return nil, err
	}
	return newSessionResponse(&s), nil
}

// network is what counts as one place for limits: an address, or the /64 that one who has an
// IPv6 address has at least.
func network(ip netip.Addr) string {
	if ip.Is6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

type availableRequest struct {
	Username string `query:"username,required"`
}

type availableResponse struct {
	Available bool `json:"available"`
}

// spec: client-server-api/index.md#legacy-account-registration
func (a *API) registerAvailable(ctx context.Context, _ *httpapi.Request, in *availableRequest) (*availableResponse, error) {
	if err := a.mayRegister(in.Username); err != nil {
		return nil, err
	}
	if err := a.users.Available(ctx, in.Username); err != nil {
		return nil, err
	}
	return &availableResponse{true}, nil
}

type tokenValidityRequest struct {
	Token string `query:"token,required"`
}

type validResponse struct {
	Valid bool `json:"valid"`
}

// spec: client-server-api/index.md#token-authenticated-registration
func (a *API) registrationTokenValidity(ctx context.Context, _ *httpapi.Request, in *tokenValidityRequest) (*validResponse, error) {
	if !slices.ContainsFunc(a.registration.flows(), func(flow []string) bool { return slices.Contains(flow, userserver.StageRegistrationToken) }) {
		return nil, matrixerr.New(matrixerr.Forbidden, "this server does not register by token")
	}
	ok, err := a.users.CheckRegistrationToken(ctx, in.Token)
	return &validResponse{ok}, err
}
