package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/userserver"
)

// The types of login.
const (
	loginPassword   = "m.login.password"
	loginToken      = "m.login.token"
	stageAppService = "m.login.application_service"
)

func (a *API) loginRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodGet, Path: v3 + "/login", Auth: httpapi.None, Handler: httpapi.Handle(a.loginFlows)},
		{Method: http.MethodPost, Path: v3 + "/login", Auth: httpapi.None, Handler: httpapi.Handle(a.login)},
		{Method: http.MethodPost, Path: v1 + "/login/get_token", Auth: httpapi.User, Rate: httpapi.RateLogin, Handler: httpapi.Handle(a.makeLoginToken)},
		{Method: http.MethodPost, Path: v3 + "/refresh", Auth: httpapi.None, Handler: httpapi.Handle(a.refresh)},
		{Method: http.MethodPost, Path: v3 + "/logout", Auth: httpapi.UserOrGuest, AllowLocked: true, Handler: httpapi.Handle(a.logout)},
		{Method: http.MethodPost, Path: v3 + "/logout/all", Auth: httpapi.UserOrGuest, AllowLocked: true, Handler: httpapi.Handle(a.logoutAll)},
	}
}

type loginFlow struct {
	Type     string `json:"type"`
	GetToken bool   `json:"get_login_token,omitempty"`
}

type loginFlowsResponse struct {
	Flows []loginFlow `json:"flows"`
}

// spec: client-server-api/index.md#legacy-login
func (a *API) loginFlows(context.Context, *httpapi.Request, *empty) (*loginFlowsResponse, error) {
	return &loginFlowsResponse{[]loginFlow{{Type: loginPassword}, {Type: loginToken, GetToken: true}, {Type: stageAppService}}}, nil
}

type loginRequest struct {
	Type       string                `json:"type"`
	Identifier userserver.Identifier `json:"identifier"`
	// User, Medium and Address are what old clients give in place of Identifier.
	User         string      `json:"user"`
	Medium       string      `json:"medium"`
	Address      string      `json:"address"`
	Password     string      `json:"password"`
	Token        string      `json:"token"`
	Device       id.DeviceID `json:"device_id"`
	DisplayName  string      `json:"initial_device_display_name"`
	RefreshToken bool        `json:"refresh_token"`
}

// spec: client-server-api/index.md#legacy-login
func (a *API) login(ctx context.Context, r *httpapi.Request, in *loginRequest) (*sessionResponse, error) {
	if in.Type != stageAppService { // which shows its token, and may have many users
		if err := r.Limit(httpapi.RateLogin, network(r.IP)); err != nil {
			return nil, err
		}
	}
	user, err := a.loginUser(ctx, r, in)
	if err != nil {
		return nil, err
	}
	s, err := a.users.Login(ctx, user, userserver.NewSession{
		Device: in.Device, DisplayName: in.DisplayName, Refresh: in.RefreshToken, IP: ipString(r.IP),
	})
	if err != nil {
		return nil, err
	}
	out := newSessionResponse(&s)
	out.WellKnown = a.clientWellKnown()
	return out, nil
}

// loginUser is the user who has proved to be one.
func (a *API) loginUser(ctx context.Context, r *httpapi.Request, in *loginRequest) (id.UserID, error) {
	switch in.Type {
	case loginPassword:
		if in.Identifier.Type == "" && in.Medium != "" {
			in.Identifier = userserver.Identifier{Type: "m.id.thirdparty", Medium: in.Medium, Address: in.Address}
		}
		user, err := a.users.Identify(ctx, in.Identifier, in.User)
		if err != nil {
			return "", err
		}
		if in.Password == "" {
			return "", matrixerr.New(matrixerr.MissingParam, "password is missing")
		}
		// Whoever guesses at one account does so from many addresses.
		if err := r.Limit(httpapi.RateLogin, string(user)); err != nil {
			return "", err
		}
		return user, a.users.CheckPassword(ctx, user, in.Password)
	case loginToken:
		if in.Token == "" {
			return "", matrixerr.New(matrixerr.MissingParam, "token is missing")
		}
		return a.users.UseLoginToken(ctx, in.Token)
	case stageAppService:
		return a.loginService(ctx, r, in)
	case "":
		return "", matrixerr.New(matrixerr.MissingParam, "type is missing")
	}
	return "", matrixerr.New(matrixerr.Unknown, "logins of type %.50q are not known here", in.Type)
}

type authRequest struct {
	Auth json.RawMessage `json:"auth"`
}

type loginTokenResponse struct {
	LoginToken string `json:"login_token"`
	ExpiresIn  int64  `json:"expires_in_ms"`
}

// spec: client-server-api/index.md#legacy-login
func (a *API) makeLoginToken(ctx context.Context, r *httpapi.Request, in *authRequest) (*loginTokenResponse, error) {
	if _, err := a.confirm(ctx, r, in.Auth, "login token"); err != nil {
		return nil, err
	}
	token, life, err := a.users.MakeLoginToken(ctx, r.Caller.User)
	return &loginTokenResponse{token, millis(life)}, err
}

type refreshRequest struct {
	RefreshToken string `json:"refresh_token"`
}

type refreshResponse struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	ExpiresIn    int64  `json:"expires_in_ms"`
}

// spec: client-server-api/index.md#refreshing-access-tokens
func (a *API) refresh(ctx context.Context, _ *httpapi.Request, in *refreshRequest) (*refreshResponse, error) {
	if in.RefreshToken == "" {
		return nil, matrixerr.New(matrixerr.MissingParam, "refresh_token is missing")
	}
	s, err := a.users.Refresh(ctx, in.RefreshToken)
	return &refreshResponse{s.AccessToken, s.RefreshToken, millis(s.ExpiresIn)}, err
}

func (a *API) logout(ctx context.Context, r *httpapi.Request, _ *empty) (*empty, error) {
	return nil, a.users.Logout(ctx, r.Caller.User, r.Caller.Device)
}

func (a *API) logoutAll(ctx context.Context, r *httpapi.Request, _ *empty) (*empty, error) {
	return nil, a.users.LogoutAll(ctx, r.Caller.User)
}
