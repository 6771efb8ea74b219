package clientapi

import (
	"context"
	"math"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver"
)

// threadSubscriptionRoutes are those of MSC4306 and MSC4308, by their unstable names:
// https://github.com/matrix-org/matrix-spec-proposals/pull/4306 and
// https://github.com/matrix-org/matrix-spec-proposals/pull/4308
func (a *API) threadSubscriptionRoutes() httpapi.Table {
	const unstable = "/_matrix/client/unstable/"
	const subscription = unstable + "io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription"
	return httpapi.Table{
		{Method: http.MethodGet, Path: subscription, Auth: httpapi.User, Handler: httpapi.Handle(a.threadSubscription)},
		{Method: http.MethodPut, Path: subscription, Auth: httpapi.User, Handler: httpapi.Handle(a.subscribeThread)},
		{Method: http.MethodDelete, Path: subscription, Auth: httpapi.User, Handler: httpapi.Handle(a.unsubscribeThread)},
		{Method: http.MethodGet, Path: unstable + "io.element.msc4308/thread_subscriptions", Auth: httpapi.User,
			Handler: httpapi.Handle(a.threadSubscriptions)},
	}
}

type threadRequest struct {
	RoomID id.RoomID  `path:"roomId"`
	Root   id.EventID `path:"eventId"`
}

// mayThread says whether the caller may see the event that a thread hangs on.
func (a *API) mayThread(ctx context.Context, r *httpapi.Request, in *threadRequest) error {
	_, err := a.rooms.Event(ctx, in.RoomID, in.Root, reader(r))
	return err
}

type threadSubscriptionResponse struct {
	Automatic bool `json:"automatic"`
}

func (a *API) threadSubscription(ctx context.Context, r *httpapi.Request, in *threadRequest) (*threadSubscriptionResponse, error) {
	if err := a.mayThread(ctx, r, in); err != nil {
		return nil, err
	}
	automatic, err := a.users.GetThreadSubscription(ctx, r.Caller.User, in.RoomID, in.Root)
	return &threadSubscriptionResponse{automatic}, err
}

type subscribeThreadRequest struct {
	threadRequest
	// Automatic is the event for which the client subscribes by itself.
	Automatic id.EventID `json:"automatic"`
}

func (a *API) subscribeThread(ctx context.Context, r *httpapi.Request, in *subscribeThreadRequest) (*empty, error) {
	if err := a.mayThread(ctx, r, &in.threadRequest); err != nil {
		return nil, err
	}
	return nil, a.users.SubscribeThread(ctx, r.Caller.User, in.RoomID, in.Root, in.Automatic)
}

func (a *API) unsubscribeThread(ctx context.Context, r *httpapi.Request, in *threadRequest) (*empty, error) {
	if err := a.mayThread(ctx, r, in); err != nil {
		return nil, err
	}
	return nil, a.users.UnsubscribeThread(ctx, r.Caller.User, in.RoomID, in.Root)
}

type threadSubscriptionsRequest struct {
	Dir   string  `query:"dir"`
	From  *string `query:"from"`
	To    *string `query:"to"`
	Limit *int    `query:"limit"`
}

type subscribedThread struct {
	Automatic bool   `json:"automatic"`
	BumpStamp id.Pos `json:"bump_stamp"`
}

type unsubscribedThread struct {
	BumpStamp id.Pos `json:"bump_stamp"`
}

type threadSubscriptionsResponse struct {
	Subscribed   map[id.RoomID]map[id.EventID]subscribedThread   `json:"subscribed,omitempty"`
	Unsubscribed map[id.RoomID]map[id.EventID]unsubscribedThread `json:"unsubscribed,omitempty"`
	End          string                                          `json:"end,omitempty"`
}

func (a *API) threadSubscriptions(ctx context.Context, r *httpapi.Request, in *threadSubscriptionsRequest) (*threadSubscriptionsResponse, error) {
	if in.Dir != "b" {
		return nil, matrixerr.New(matrixerr.InvalidParam, "dir must be b")
	}
	limit, err := pageLimit(in.Limit, 100)
	if err != nil {
		return nil, err
	}
	limit = max(1, min(limit, 100))
	first, last := id.Pos(0), id.Pos(math.MaxInt64)
	for _, bound := range []struct {
		name string
		in   *string
		to   *id.Pos
	}{{"from", in.From, &last}, {"to", in.To, &first}} {
		ord, err := a.place(bound.name, bound.in)
		if err != nil {
			return nil, err
		}
		if ord != nil {
			*bound.to = id.Pos(*ord)
		}
	}
	list, err := a.users.ListThreadSubscriptions(ctx, r.Caller.User, first, last, limit+1)
	if err != nil {
		return nil, err
	}
	out := &threadSubscriptionsResponse{
		Subscribed: make(map[id.RoomID]map[id.EventID]subscribedThread), Unsubscribed: make(map[id.RoomID]map[id.EventID]unsubscribedThread),
	}
	for i, s := range list {
		if i == limit {
			out.End = a.token(roomserver.Ord(list[i-1].Pos - 1))
			break
		}
		if s.UnsubscribedAt == 0 {
			if out.Subscribed[s.Room] == nil {
				out.Subscribed[s.Room] = make(map[id.EventID]subscribedThread)
			}
			out.Subscribed[s.Room][s.Root] = subscribedThread{s.Automatic, s.Pos}
			continue
		}
		if out.Unsubscribed[s.Room] == nil {
			out.Unsubscribed[s.Room] = make(map[id.EventID]unsubscribedThread)
		}
		out.Unsubscribed[s.Room][s.Root] = unsubscribedThread{s.Pos}
	}
	return out, nil
}
