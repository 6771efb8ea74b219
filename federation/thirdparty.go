package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver"
)

const (
	// maxClaims bounds the invites that one address may have, and claimsAtOnce how many of all
	// addresses' are worked on at the same time: anybody may send some.
	maxClaims    = 100
	claimsAtOnce = 4
	// claimTime is for how long one request for them is worked on.
	claimTime = time.Minute
)

// thirdPartyRoutes are how those come into rooms whose address was invited.
//
// spec: server-server-api.md#third-party-invites
func (a *API) thirdPartyRoutes() httpapi.Table {
	return httpapi.Table{
		put(v1+"/exchange_third_party_invite/{roomId}", httpapi.Handle(a.exchangeInvite)),
		// Identity servers sign what they say, and not the request.
		{Method: http.MethodPut, Path: v1 + "/3pid/onbind", Auth: httpapi.None, NeedBody: true, Handler: httpapi.Handle(a.addressBound)},
	}
}

type exchangeRequest struct {
	Room  id.RoomID       `path:"roomId"`
	Event json.RawMessage `body:"raw"`
}

func (a *API) exchangeInvite(ctx context.Context, r *httpapi.Request, in *exchangeRequest) (*empty, error) {
	return &empty{}, a.rooms.ExchangeThirdPartyInvite(ctx, r.Origin, in.Room, in.Event)
}

type addressBoundRequest struct {
	User    id.UserID `json:"mxid"`
	Invites []struct {
		Room   id.RoomID       `json:"room_id"`
		Sender id.UserID       `json:"sender"`
		Signed json.RawMessage `json:"signed"`
	} `json:"invites"`
}

// spec: server-server-api.md#put_matrixfederationv13pidonbind
func (a *API) addressBound(ctx context.Context, _ *httpapi.Request, in *addressBoundRequest) (*empty, error) {
	if len(in.Invites) > maxClaims {
		return nil, matrixerr.New(matrixerr.InvalidParam, "An address has at most %d invites.", maxClaims)
	}
	if _, err := id.ParseUserID(string(in.User)); err != nil || !a.users.Local(in.User) {
		return nil, matrixerr.New(matrixerr.InvalidParam, "The user is not one of this server's.")
	}
	if _, err := a.users.GetProfile(ctx, in.User, ""); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	var claims sync.WaitGroup
	for _, i := range in.Invites {
		claims.Go(func() {
			select {
			case a.claims <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-a.claims }()
			if err := a.claim(ctx, roomserver.ThirdPartyInvite{Room: i.Room, Sender: i.Sender, User: in.User, Signed: i.Signed}); err != nil {
				a.log.InfoContext(ctx, "an invite of a user's address came to nothing", "user", in.User, "room", i.Room, "sender", i.Sender, "error", err)
			}
		})
	}
	claims.Wait()
	return &empty{}, nil
}

// claim checks what can be checked before anybody is asked.
func (a *API) claim(ctx context.Context, in roomserver.ThirdPartyInvite) error {
	if _, err := id.ParseRoomID(string(in.Room)); err != nil {
		return err
	}
	if _, err := id.ParseUserID(string(in.Sender)); err != nil {
		return err
	}
	var signed struct {
		User  id.UserID `json:"mxid"`
		Token string    `json:"token"`
	}
	if err := json.Unmarshal(in.Signed, &signed); err != nil {
		return err
	}
	if signed.User != in.User || signed.Token == "" {
		return matrixerr.New(matrixerr.InvalidParam, "The identity server signed for another user.")
	}
	return a.rooms.ClaimThirdPartyInvite(ctx, in)
}
