package clientapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net/http"
	"time"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver"
)

// WellKnown is what clients are told who look for the server by its name.
type WellKnown struct {
	// ClientBaseURL is where clients reach this server, "" not to say.
	ClientBaseURL string
	SupportPage   string
	Contacts      []Contact
}

// Contact is a way to reach the people who run the server.
type Contact struct {
	Role         string    `json:"role"`
	MatrixID     id.UserID `json:"matrix_id,omitempty"`
	EmailAddress string    `json:"email_address,omitempty"`
}

// TURN is the relay for calls. Without URIs there is none.
type TURN struct {
	URIs []string
	// SharedSecret is what this server and the relay share.
	SharedSecret string
	// Lifetime is how long a password is valid.
	Lifetime time.Duration
}

func (a *API) discoveryRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodGet, Path: "/_matrix/client/versions", Auth: httpapi.None, Rate: httpapi.RateNone, Handler: httpapi.Handle(a.versions)},
		{Method: http.MethodGet, Path: "/.well-known/matrix/client", Auth: httpapi.None, Rate: httpapi.RateNone, Handler: httpapi.Handle(a.wellKnownClient)},
		{Method: http.MethodGet, Path: "/.well-known/matrix/support", Auth: httpapi.None, Rate: httpapi.RateNone, Handler: httpapi.Handle(a.wellKnownSupport)},
		{Method: http.MethodGet, Path: v3 + "/capabilities", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.capabilities)},
		{Method: http.MethodGet, Path: "/_matrix/client/unstable/org.matrix.msc1763/retention/configuration", Auth: httpapi.User, Handler: httpapi.Handle(a.retention)},
		{Method: http.MethodGet, Path: v3 + "/voip/turnServer", Auth: httpapi.UserOrGuest, Handler: httpapi.Handle(a.turnServer)},
	}
}

type versionsResponse struct {
	Versions         []string        `json:"versions"`
	UnstableFeatures map[string]bool `json:"unstable_features"`
}

// newestMinor is the newest version of the specification, v1.x, that the server answers by.
const newestMinor = 19

// spec: client-server-api/index.md#api-versions
func (a *API) versions(context.Context, *httpapi.Request, *empty) (*versionsResponse, error) {
	out := &versionsResponse{UnstableFeatures: map[string]bool{
		"org.matrix.msc3391":                      true,
		"org.matrix.msc3814":                      true,
		"org.matrix.msc3874":                      true,
		"org.matrix.simplified_msc3575":           true,
		"uk.half-shot.msc2666.query_mutual_rooms": true,
	}}
	for minor := 1; minor <= newestMinor; minor++ {
		out.Versions = append(out.Versions, fmt.Sprintf("v1.%d", minor))
	}
	return out, nil
}

type baseURL struct {
	BaseURL string `json:"base_url"`
}

type wellKnownResponse struct {
	Homeserver baseURL `json:"m.homeserver"`
}

// clientWellKnown is nil where there is nothing to tell.
func (a *API) clientWellKnown() *wellKnownResponse {
	if a.wellKnown.ClientBaseURL == "" {
		return nil
	}
	return &wellKnownResponse{baseURL{a.wellKnown.ClientBaseURL}}
}

// spec: client-server-api/index.md#well-known-uris
func (a *API) wellKnownClient(context.Context, *httpapi.Request, *empty) (*wellKnownResponse, error) {
	out := a.clientWellKnown()
	if out == nil {
		return nil, matrixerr.New(matrixerr.NotFound, "this server does not say where clients reach it")
	}
	return out, nil
}

type supportResponse struct {
	Contacts    []Contact `json:"contacts,omitempty"`
	SupportPage string    `json:"support_page,omitempty"`
}

// spec: client-server-api/index.md#well-known-uris
func (a *API) wellKnownSupport(context.Context, *httpapi.Request, *empty) (*supportResponse, error) {
	if len(a.wellKnown.Contacts) == 0 && a.wellKnown.SupportPage == "" {
		return nil, matrixerr.New(matrixerr.NotFound, "this server names nobody who supports it")
	}
	return &supportResponse{a.wellKnown.Contacts, a.wellKnown.SupportPage}, nil
}

type enabled struct {
	Enabled bool `json:"enabled"`
}

type roomVersions struct {
	Default   id.RoomVersion            `json:"default"`
	Available map[id.RoomVersion]string `json:"available"`
}

type accountModeration struct {
	Suspend bool `json:"suspend"`
	Lock    bool `json:"lock"`
}

type capabilities struct {
	ChangePassword enabled      `json:"m.change_password"`
	RoomVersions   roomVersions `json:"m.room_versions"`
	ProfileFields  enabled      `json:"m.profile_fields"`
	SetDisplayName enabled      `json:"m.set_displayname"`
	SetAvatarURL   enabled      `json:"m.set_avatar_url"`
	ThreePID       enabled      `json:"m.3pid_changes"`
	GetLoginToken  enabled      `json:"m.get_login_token"`
	ForcedForget   enabled      `json:"m.forget_forced_upon_leave"`
	// AccountModeration is left out for those who can't do it.
	AccountModeration *accountModeration `json:"m.account_moderation,omitempty"`
}

type capabilitiesResponse struct {
	Capabilities capabilities `json:"capabilities"`
}

// spec: client-server-api/index.md#capabilities-negotiation
func (a *API) capabilities(_ context.Context, r *httpapi.Request, _ *empty) (*capabilitiesResponse, error) {
	account := enabled{!r.Caller.Guest}
	out := &capabilitiesResponse{capabilities{
		ChangePassword: account,
		RoomVersions:   roomVersions{a.rooms.DefaultVersion(), roomserver.Versions()},
		ProfileFields:  account, SetDisplayName: enabled{true}, SetAvatarURL: account,
		ThreePID: enabled{!r.Caller.Guest && a.users.HasMail()}, GetLoginToken: account, ForcedForget: enabled{false},
	}}
	if r.Caller.Admin && !r.Caller.Guest {
		out.Capabilities.AccountModeration = &accountModeration{Suspend: true, Lock: true}
	}
	return out, nil
}

type turnResponse struct {
	Username string   `json:"username"`
	Password string   `json:"password"`
	URIs     []string `json:"uris"`
	TTL      int64    `json:"ttl"`
}

// turnServer gives credentials that the relay can check by the secret that it shares with us:
// the name says until when, and the password is a MAC of the name. SHA-1 is what relays take.
//
// spec: client-server-api/modules/voip_events.md#server-behaviour
func (a *API) turnServer(_ context.Context, r *httpapi.Request, _ *empty) (*turnResponse, error) {
	if len(a.turn.URIs) == 0 {
		return nil, nil
	}
	out := &turnResponse{
		Username: fmt.Sprintf("%d:%s", a.now().Add(a.turn.Lifetime).Unix(), r.Caller.User),
		URIs:     a.turn.URIs,
		TTL:      int64(a.turn.Lifetime / time.Second),
	}
	mac := hmac.New(sha1.New, []byte(a.turn.SharedSecret))
	mac.Write([]byte(out.Username))
	out.Password = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return out, nil
}

// retentionResponse has all times in milliseconds.
type retentionResponse struct {
	Policies map[string]map[string]int64 `json:"policies"`
	Limits   map[string]map[string]int64 `json:"limits"`
}

// retention tells what MSC1763 has clients ask: for how long messages are kept where a room doesn't say,
// and the limits of what it may say.
func (a *API) retention(context.Context, *httpapi.Request, *empty) (*retentionResponse, error) {
	r := a.rooms.Retention()
	if !r.Enabled {
		return nil, matrixerr.New(matrixerr.Unrecognized, "messages don't leave here")
	}
	out := &retentionResponse{Policies: make(map[string]map[string]int64), Limits: make(map[string]map[string]int64)}
	set := func(all map[string]map[string]int64, of, name string, d time.Duration) {
		if d == 0 {
			return
		}
		if all[of] == nil {
			all[of] = make(map[string]int64)
		}
		all[of][name] = d.Milliseconds()
	}
	set(out.Policies, "*", "max_lifetime", r.Lifetime(nil))
	set(out.Limits, "max_lifetime", "min", r.Min)
	set(out.Limits, "max_lifetime", "max", r.Max)
	return out, nil
}
