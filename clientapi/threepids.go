package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/mail"
	"parley/internal/matrixerr"
	"parley/userserver"
)

func (a *API) threePIDRoutes() httpapi.Table {
	const account = v3 + "/account"
	routes := httpapi.Table{
		{Method: http.MethodGet, Path: account + "/3pid", Auth: httpapi.User, Handler: httpapi.Handle(a.threePIDs)},
		{Method: http.MethodPost, Path: account + "/3pid", Auth: httpapi.User, Rate: httpapi.RateLogin, Handler: httpapi.Handle(a.addThreePIDOld)},
		{Method: http.MethodPost, Path: account + "/3pid/add", Auth: httpapi.User, Rate: httpapi.RateLogin, Handler: httpapi.Handle(a.addThreePID)},
		{Method: http.MethodPost, Path: account + "/3pid/bind", Auth: httpapi.User, Rate: httpapi.RateLogin, Handler: httpapi.Handle(a.bindThreePID)},
		{Method: http.MethodPost, Path: account + "/3pid/unbind", Auth: httpapi.User, RefuseSuspended: true, Handler: httpapi.Handle(a.unbindThreePID)},
		{Method: http.MethodPost, Path: account + "/3pid/delete", Auth: httpapi.User, RefuseSuspended: true, Handler: httpapi.Handle(a.deleteThreePID)},
	}
	for path, purpose := range map[string]mail.Kind{"/account/3pid": mail.Add, "/account/password": mail.Reset, "/register": mail.Register} {
		routes = append(routes,
			httpapi.Route{Method: http.MethodPost, Path: v3 + path + "/email/requestToken", Auth: httpapi.Optional, Rate: httpapi.RateLogin, Handler: httpapi.Handle(a.requestEmail(purpose))},
			httpapi.Route{Method: http.MethodPost, Path: v3 + path + "/msisdn/requestToken", Auth: httpapi.Optional, Rate: httpapi.RateLogin, Handler: httpapi.Handle(a.requestNumber)})
	}
	return routes
}

type threePID struct {
	Medium    string `json:"medium"`
	Address   string `json:"address"`
	Validated int64  `json:"validated_at"`
	Added     int64  `json:"added_at"`
}

type threePIDsResponse struct {
	ThreePIDs []threePID `json:"threepids"`
}

// spec: client-server-api/index.md#adding-account-administrative-contact-information
func (a *API) threePIDs(ctx context.Context, r *httpapi.Request, _ *empty) (*threePIDsResponse, error) {
	all, err := a.users.ListThreePIDs(ctx, r.Caller.User)
	out := &threePIDsResponse{make([]threePID, len(all))}
	for i, p := range all {
		out.ThreePIDs[i] = threePID{p.Medium, p.Address, p.Validated, p.Added}
	}
	return out, err
}

// credentials name a session in which somebody showed that an address is theirs.
type credentials struct {
	Secret        string `json:"client_secret"`
	SID           string `json:"sid"`
	IDServer      string `json:"id_server"`
	IDAccessToken string `json:"id_access_token"`
}

func (c *credentials) check() error {
	if c.Secret == "" || c.SID == "" {
		return matrixerr.New(matrixerr.MissingParam, "client_secret or sid is missing")
	}
	return nil
}

type addThreePIDOldRequest struct {
	Credentials *credentials `json:"three_pid_creds"`
	Bind        bool         `json:"bind"`
}

// addThreePIDOld adds an address without asking for the password.
//
// spec: client-server-api/index.md#post_matrixclientv3account3pid
func (a *API) addThreePIDOld(ctx context.Context, r *httpapi.Request, in *addThreePIDOldRequest) (*empty, error) {
	if in.Credentials == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "three_pid_creds is missing")
	}
	if err := in.Credentials.check(); err != nil {
		return nil, err
	}
	return nil, a.users.AddThreePID(ctx, r.Caller.User, in.Credentials.SID, in.Credentials.Secret)
}

type addThreePIDRequest struct {
	credentials
	Auth json.RawMessage `json:"auth"`
}

func (a *API) addThreePID(ctx context.Context, r *httpapi.Request, in *addThreePIDRequest) (*empty, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	if _, err := a.confirm(ctx, r, in.Auth, "add address", in.SID); err != nil {
		return nil, err
	}
	return nil, a.users.AddThreePID(ctx, r.Caller.User, in.SID, in.Secret)
}

func (a *API) bindThreePID(ctx context.Context, r *httpapi.Request, in *credentials) (*empty, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	if in.IDServer == "" || in.IDAccessToken == "" {
		return nil, matrixerr.New(matrixerr.MissingParam, "id_server or id_access_token is missing")
	}
	if _, err := id.ParseServerName(in.IDServer); err != nil {
		return nil, matrixerr.New(matrixerr.InvalidParam, "id_server is not the name of a server")
	}
	return nil, a.users.BindThreePID(ctx, r.Caller.User, in.IDServer, in.IDAccessToken, in.SID, in.Secret)
}

type removeThreePIDRequest struct {
	IDServer string `json:"id_server"`
	Medium   string `json:"medium"`
	Address  string `json:"address"`
}

func (in *removeThreePIDRequest) check() error {
	if in.Medium == "" || in.Address == "" {
		return matrixerr.New(matrixerr.MissingParam, "medium or address is missing")
	}
	return nil
}

type unbindResponse struct {
	Result string `json:"id_server_unbind_result"`
}

// unbindResult says in the specification's words whether identity servers know nothing any more.
func unbindResult(unbound bool) string {
	if unbound {
		return "success"
	}
	return "no-support"
}

func (a *API) unbindThreePID(ctx context.Context, r *httpapi.Request, in *removeThreePIDRequest) (*unbindResponse, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	unbound, err := a.users.UnbindThreePID(ctx, r.Caller.User, in.IDServer, in.Medium, in.Address)
	return &unbindResponse{unbindResult(unbound)}, err
}

func (a *API) deleteThreePID(ctx context.Context, r *httpapi.Request, in *removeThreePIDRequest) (*unbindResponse, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	unbound, err := a.users.DeleteThreePID(ctx, r.Caller.User, in.IDServer, in.Medium, in.Address)
	return &unbindResponse{unbindResult(unbound)}, err
}

type requestEmailRequest struct {
	Secret   string `json:"client_secret"`
	Email    string `json:"email"`
	Attempt  *int64 `json:"send_attempt"`
	NextLink string `json:"next_link"`
}

type requestTokenResponse struct {
	SID string `json:"sid"`
}

// requestEmail makes a handler that sends a mail by which an address is shown to be one's own.
//
// spec: client-server-api/index.md#post_matrixclientv3registeremailrequesttoken
func (a *API) requestEmail(purpose mail.Kind) func(context.Context, *httpapi.Request, *requestEmailRequest) (*requestTokenResponse, error) {
	return func(ctx context.Context, r *httpapi.Request, in *requestEmailRequest) (*requestTokenResponse, error) {
		if in.Secret == "" || in.Email == "" || in.Attempt == nil {
			return nil, matrixerr.New(matrixerr.MissingParam, "client_secret, email or send_attempt is missing")
		}
		if purpose == mail.Register && a.registration.flows() == nil {
			return nil, matrixerr.New(matrixerr.ThreepidDenied, "registration is disabled")
		}
		// Nobody is to be sent mail after mail, from wherever they are asked for.
		if err := r.Limit(httpapi.RateLogin, in.Email); err != nil {
			return nil, err
		}
		sid, err := a.users.RequestEmail(ctx, userserver.EmailRequest{
			Email: in.Email, Secret: in.Secret, Attempt: *in.Attempt, NextLink: in.NextLink, Purpose: purpose,
		})
		return &requestTokenResponse{sid}, err
	}
}

type requestNumberRequest struct {
	Secret  string `json:"client_secret"`
	Country string `json:"country"`
	Number  string `json:"phone_number"`
	Attempt *int64 `json:"send_attempt"`
}

// requestNumber says that telephone numbers can't be shown to be one's own here.
//
// spec: client-server-api/index.md#post_matrixclientv3account3pidmsisdnrequesttoken
func (a *API) requestNumber(_ context.Context, _ *httpapi.Request, in *requestNumberRequest) (*requestTokenResponse, error) {
	if in.Secret == "" || in.Country == "" || in.Number == "" || in.Attempt == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "client_secret, country, phone_number or send_attempt is missing")
	}
	return nil, matrixerr.New(matrixerr.ThreepidMediumNotSupported, "this server does not deal with telephone numbers")
}
