package clientapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
)

// Networks are other networks, to which bridges lead. What is not known of is an empty list.
//
// spec: client-server-api/modules/third_party_networks.md#third-party-lookups
type Networks interface {
	// Protocols are the networks' protocols, by name.
	Protocols(ctx context.Context) (map[string]json.RawMessage, error)
	// Locations are places of a network that the fields lead to, and the rooms that show them.
	Locations(ctx context.Context, protocol string, fields url.Values) ([]json.RawMessage, error)
	// Users are people of a network that the fields lead to, and the users who stand for them.
	Users(ctx context.Context, protocol string, fields url.Values) ([]json.RawMessage, error)
	// LocationsOf are the places that a room shows.
	LocationsOf(ctx context.Context, alias id.RoomAlias) ([]json.RawMessage, error)
	// UsersOf are the people for whom a user stands.
	UsersOf(ctx context.Context, user id.UserID) ([]json.RawMessage, error)
	// Ping has an application service show that it is reached, and says how long that took.
	Ping(ctx context.Context, service, txnID string) (time.Duration, error)
	// Publish shows a room in the directory of a network that an application service leads to, or
	// no longer.
	Publish(ctx context.Context, service, network string, room id.RoomID, public bool) error
}

// noServices is a server without application services.
type noServices struct{}

func (noServices) Protocols(context.Context) (map[string]json.RawMessage, error) {
	return map[string]json.RawMessage{}, nil
}

func (noServices) Locations(context.Context, string, url.Values) ([]json.RawMessage, error) {
	return nil, nil
}

func (noServices) Users(context.Context, string, url.Values) ([]json.RawMessage, error) {
	return nil, nil
}

func (noServices) LocationsOf(context.Context, id.RoomAlias) ([]json.RawMessage, error) {
	return nil, nil
}

func (noServices) UsersOf(context.Context, id.UserID) ([]json.RawMessage, error) { return nil, nil }

func (noServices) Ping(context.Context, string, string) (time.Duration, error) {
	return 0, errNoServices
}

func (noServices) Publish(context.Context, string, string, id.RoomID, bool) error {
	return errNoServices
}

var errNoServices = matrixerr.New(matrixerr.Forbidden, "This server has no application services.")

func (a *API) networkRoutes() httpapi.Table {
	const base = v3 + "/thirdparty"
	return httpapi.Table{
		{Method: http.MethodGet, Path: base + "/protocols", Auth: httpapi.User, Handler: httpapi.Handle(a.protocols)},
		{Method: http.MethodGet, Path: base + "/protocol/{protocol}", Auth: httpapi.User, Handler: httpapi.Handle(a.protocol)},
		{Method: http.MethodGet, Path: base + "/location/{protocol}", Auth: httpapi.User, Handler: httpapi.Handle(a.lookUp(a.services.Locations))},
		{Method: http.MethodGet, Path: base + "/user/{protocol}", Auth: httpapi.User, Handler: httpapi.Handle(a.lookUp(a.services.Users))},
		{Method: http.MethodGet, Path: base + "/location", Auth: httpapi.User, Handler: httpapi.Handle(a.locationsOf)},
		{Method: http.MethodGet, Path: base + "/user", Auth: httpapi.User, Handler: httpapi.Handle(a.usersOf)},
		{Method: http.MethodPost, Path: v1 + "/appservice/{appserviceId}/ping", Auth: httpapi.AppService, Handler: httpapi.Handle(a.pingService)},
		{Method: http.MethodPut, Path: v3 + "/directory/list/appservice/{networkId}/{roomId}", Auth: httpapi.AppService, Handler: httpapi.Handle(a.publishInNetwork)},
	}
}

func (a *API) protocols(ctx context.Context, _ *httpapi.Request, _ *empty) (map[string]json.RawMessage, error) {
	return a.services.Protocols(ctx)
}

type protocolRequest struct {
	Protocol string `path:"protocol"`
}

func (a *API) protocol(ctx context.Context, _ *httpapi.Request, in *protocolRequest) (json.RawMessage, error) {
	all, err := a.services.Protocols(ctx)
	if err == nil && all[in.Protocol] == nil {
		err = matrixerr.New(matrixerr.NotFound, "Nothing here speaks the protocol %.50q.", in.Protocol)
	}
	return all[in.Protocol], err
}

// lookUp makes a handler of a question to the networks.
func (a *API) lookUp(ask func(context.Context, string, url.Values) ([]json.RawMessage, error)) func(context.Context, *httpapi.Request, *protocolRequest) ([]json.RawMessage, error) {
	return func(ctx context.Context, r *httpapi.Request, in *protocolRequest) ([]json.RawMessage, error) {
		fields := r.HTTP.URL.Query()
		for _, own := range []string{"access_token", "user_id", "device_id", oldDeviceID} {
			fields.Del(own)
		}
		found, err := ask(ctx, in.Protocol, fields)
		return someFound(found, err)
	}
}

func someFound(found []json.RawMessage, err error) ([]json.RawMessage, error) {
	if err == nil && len(found) == 0 {
		err = matrixerr.New(matrixerr.NotFound, "Nothing was found.")
	}
	return found, err
}

type locationsOfRequest struct {
	Alias string `query:"alias,required"`
}

func (a *API) locationsOf(ctx context.Context, _ *httpapi.Request, in *locationsOfRequest) ([]json.RawMessage, error) {
	alias, err := parseAlias(in.Alias)
	if err != nil {
		return nil, err
	}
	found, err := a.services.LocationsOf(ctx, alias)
	return someFound(found, err)
}

type usersOfRequest struct {
	UserID id.UserID `query:"userid,required"`
}

func (a *API) usersOf(ctx context.Context, _ *httpapi.Request, in *usersOfRequest) ([]json.RawMessage, error) {
	found, err := a.services.UsersOf(ctx, in.UserID)
	return someFound(found, err)
}

type pingServiceRequest struct {
	Service string `path:"appserviceId"`
	TxnID   string `json:"transaction_id"`
}

type pingServiceResponse struct {
	Duration int64 `json:"duration_ms"`
}

// spec: application-service-api.md#post_matrixclientv1appserviceappserviceidping
func (a *API) pingService(ctx context.Context, r *httpapi.Request, in *pingServiceRequest) (*pingServiceResponse, error) {
	if r.Caller.AppService != in.Service {
		return nil, matrixerr.New(matrixerr.Forbidden, "this is the token of another application service")
	}
	took, err := a.services.Ping(ctx, in.Service, in.TxnID)
	return &pingServiceResponse{millis(took)}, err
}

type publishInNetworkRequest struct {
	Network    string    `path:"networkId"`
	RoomID     id.RoomID `path:"roomId"`
	Visibility string    `json:"visibility"`
}

// spec: application-service-api.md#put_matrixclientv3directorylistappservicenetworkidroomid
func (a *API) publishInNetwork(ctx context.Context, r *httpapi.Request, in *publishInNetworkRequest) (*empty, error) {
	if in.Visibility != "public" && in.Visibility != "private" {
		return nil, matrixerr.New(matrixerr.InvalidParam, `visibility is neither "public" nor "private"`)
	}
	return nil, a.services.Publish(ctx, r.Caller.AppService, in.Network, in.RoomID, in.Visibility == "public")
}
