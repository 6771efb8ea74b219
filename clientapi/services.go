package clientapi

import (
	"context"
	"math"
	"strconv"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/userserver"
)

// Services are the application services, which are named by their IDs, and the networks that they lead to.
//
// spec: application-service-api.md#client-server-api-extensions
type Services interface {
	Networks
	// ByToken is the service whose token it is with the user who acts for it, and whether its users are
	// limited in what they do; "" for nobody's.
	ByToken(token string) (service string, sender id.UserID, limited bool)
	// HasUser says whether a service may act as a user, and HasAlias whether it may make an alias.
	HasUser(service string, user id.UserID) bool
	HasAlias(service string, alias id.RoomAlias) bool
	// ReservesUser says whether a user of that name is for a service alone, and that is not the one named but;
	// ReservesAlias the same of an alias.
	ReservesUser(user id.UserID, but string) bool
	ReservesAlias(alias id.RoomAlias, but string) bool
}

func (noServices) ByToken(string) (service string, sender id.UserID, limited bool) {
	return "", "", false
}
func (noServices) HasUser(string, id.UserID) bool          { return false }
func (noServices) HasAlias(string, id.RoomAlias) bool      { return false }
func (noServices) ReservesUser(id.UserID, string) bool     { return false }
func (noServices) ReservesAlias(id.RoomAlias, string) bool { return false }

// oldDeviceID is what the parameter device_id was called while it was MSC3202.
const oldDeviceID = "org.matrix.msc3202.device_id"

// authenticateService finds out whom a service acts for, and by which of their devices.
//
// spec: application-service-api.md#identity-assertion
func (a *API) authenticateService(ctx context.Context, r *httpapi.Request, service string, sender id.UserID, limited bool) (*httpapi.Caller, error) {
	a.heardService(service)
	user := sender
	if asserted := r.Query("user_id"); asserted != "" {
		user = id.UserID(asserted)
		if !a.services.HasUser(service, user) {
			return nil, matrixerr.New(matrixerr.Forbidden, "the application service may not act for %.300q", asserted)
		}
	}
	device := r.Query("device_id")
	if device == "" {
		device = r.Query(oldDeviceID)
	}
	c, err := a.users.AuthenticateService(ctx, user, id.DeviceID(device))
	if err != nil {
		return nil, err
	}
	return &httpapi.Caller{
		User: c.User, Device: c.Device, DeviceNID: c.DeviceNID, AppService: service, Locked: c.Locked, Suspended: c.Suspended,
		Unlimited: !limited || user == sender,
	}, nil
}

// service is the application service that asks, on a route where nobody need be known.
//
// spec: application-service-api.md#server-admin-style-permissions
func (a *API) service(r *httpapi.Request) (string, error) {
	token := r.Token()
	if token == "" {
		return "", matrixerr.New(matrixerr.MissingToken, "there is no access token")
	}
	service, _, _ := a.services.ByToken(token)
	if service == "" {
		return "", matrixerr.New(matrixerr.UnknownToken, "the access token is not that of an application service")
	}
	return service, nil
}

// mayBe refuses a service a user who is not its own.
func (a *API) mayBe(service string, user id.UserID) error {
	if !a.services.HasUser(service, user) || a.services.ReservesUser(user, service) {
		return matrixerr.New(matrixerr.Exclusive, "%s is in no namespace of the application service", user)
	}
	return nil
}

// registerService makes an account for an application service.
//
// spec: application-service-api.md#server-admin-style-permissions
func (a *API) registerService(ctx context.Context, r *httpapi.Request, in *registerRequest, session userserver.NewSession) (*sessionResponse, error) {
	service, err := a.service(r)
	if err != nil {
		return nil, err
	}
	if in.Username == "" {
		return nil, matrixerr.New(matrixerr.MissingParam, "username is missing")
	}
	user, err := a.users.NewUserID(in.Username)
	if err == nil {
		err = a.mayBe(service, user)
	}
	if err != nil {
		return nil, err
	}
	s, err := a.users.Register(ctx, userserver.Registration{Localpart: in.Username, Service: service, NoLogin: in.InhibitLogin, Session: session})
	if err != nil {
		return nil, err
	}
	return newSessionResponse(&s), nil
}

// loginService is the user whom an application service logs in.
func (a *API) loginService(ctx context.Context, r *httpapi.Request, in *loginRequest) (id.UserID, error) {
	service, err := a.service(r)
	if err != nil {
		return "", err
	}
	user, err := a.users.Identify(ctx, in.Identifier, in.User)
	if err == nil {
		err = a.mayBe(service, user)
	}
	return user, err
}

// mayRegister refuses people a name that is for a service alone.
func (a *API) mayRegister(localpart string) error {
	user, err := a.users.NewUserID(localpart)
	if err == nil && a.services.ReservesUser(user, "") {
		err = matrixerr.New(matrixerr.Exclusive, "%s is for an application service alone", user)
	}
	return err
}

// mayHaveAlias refuses people an alias that is for a service alone, and a service one that is not its own.
//
// spec: application-service-api.md#server-admin-style-permissions
func (a *API) mayHaveAlias(r *httpapi.Request, alias id.RoomAlias) error {
	service := r.Caller.AppService
	if a.services.ReservesAlias(alias, service) || service != "" && !a.services.HasAlias(service, alias) {
		return matrixerr.New(matrixerr.Exclusive, "%s is in a namespace that is for others", alias)
	}
	return nil
}

// timestamp is the time that a service gives its event, 0 for now.
//
// spec: application-service-api.md#timestamp-massaging
func timestamp(r *httpapi.Request) (int64, error) {
	given := r.Query("ts")
	if given == "" || r.Caller.AppService == "" {
		return 0, nil
	}
	ts, err := strconv.ParseInt(given, 10, 64)
	if err != nil || ts < 0 || ts > maxTimestamp {
		return 0, matrixerr.New(matrixerr.InvalidParam, "ts is not a time in milliseconds since 1970")
	}
	return ts, nil
}

// maxTimestamp is the greatest integer that an event may have.
//
// spec: appendices.md#canonical-json
const maxTimestamp = math.MaxInt64 >> 10
