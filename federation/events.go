package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
)

// eventRoutes are how other servers read the rooms that they share with us.
//
// spec: server-server-api.md#backfilling-and-retrieving-missing-events
func (a *API) eventRoutes() httpapi.Table {
	return httpapi.Table{
		get("/event/{eventId}", httpapi.Handle(a.event)),
		get("/event_auth/{roomId}/{eventId}", httpapi.Handle(a.eventAuth)),
		get("/state/{roomId}", httpapi.Handle(a.state)),
		get("/state_ids/{roomId}", httpapi.Handle(a.stateIDs)),
		get("/backfill/{roomId}", httpapi.Handle(a.backfill)),
		{Method: http.MethodPost, Path: v1 + "/get_missing_events/{roomId}", Auth: httpapi.Server, Rate: httpapi.RateServer, Handler: httpapi.Handle(a.missingEvents)},
		get("/timestamp_to_event/{roomId}", httpapi.Handle(a.timestampToEvent)),
	}
}

type eventRequest struct {
	Room  id.RoomID  `path:"roomId"`
	Event id.EventID `path:"eventId"`
}

type oneEventRequest struct {
	Event id.EventID `path:"eventId"`
}

// pdus is an answer in the form of a transaction.
func (a *API) pdus(list ...json.RawMessage) *serverapi.PDUs {
	if list == nil {
		list = []json.RawMessage{}
	}
	return &serverapi.PDUs{Origin: a.remote.Name(), OriginTS: time.Now().UnixMilli(), PDUs: list}
}

func (a *API) event(ctx context.Context, r *httpapi.Request, in *oneEventRequest) (*serverapi.PDUs, error) {
	event, err := a.rooms.ServeEvent(ctx, r.Origin, in.Event)
	return a.pdus(event), err
}

func (a *API) eventAuth(ctx context.Context, r *httpapi.Request, in *eventRequest) (*serverapi.AuthChain, error) {
	chain, err := a.rooms.ServeAuth(ctx, r.Origin, in.Room, in.Event)
	return &serverapi.AuthChain{AuthChain: chain}, err
}

type stateRequest struct {
	Room  id.RoomID  `path:"roomId"`
	Event id.EventID `query:"event_id,required"`
}

func (a *API) state(ctx context.Context, r *httpapi.Request, in *stateRequest) (*serverapi.State, error) {
	return a.rooms.ServeState(ctx, r.Origin, in.Room, in.Event)
}

func (a *API) stateIDs(ctx context.Context, r *httpapi.Request, in *stateRequest) (*serverapi.StateIDs, error) {
	return a.rooms.ServeStateIDs(ctx, r.Origin, in.Room, in.Event)
}

// maxFrom bounds the events from which a server may ask for what came before.
const maxFrom = 100

type backfillRequest struct {
	Room  id.RoomID    `path:"roomId"`
	From  []id.EventID `query:"v,required"`
	Limit int          `query:"limit,required"`
}

func (a *API) backfill(ctx context.Context, r *httpapi.Request, in *backfillRequest) (*serverapi.PDUs, error) {
	if len(in.From) > maxFrom || in.Limit < 1 {
		return nil, matrixerr.New(matrixerr.InvalidParam, "Ask for at least one event, from at most %d.", maxFrom)
	}
	events, err := a.rooms.ServeHistory(ctx, r.Origin, in.Room, in.From, in.Limit)
	return a.pdus(events...), err
}

type missingRequest struct {
	Room id.RoomID               `path:"roomId"`
	Body serverapi.MissingEvents `body:"json"`
}

func (a *API) missingEvents(ctx context.Context, r *httpapi.Request, in *missingRequest) (*serverapi.Events, error) {
	events, err := a.rooms.ServeMissing(ctx, r.Origin, in.Room, in.Body)
	if events == nil {
		events = []json.RawMessage{}
	}
	return &serverapi.Events{Events: events}, err
}

type timestampRequest struct {
	Room id.RoomID `path:"roomId"`
	TS   int64     `query:"ts,required"`
	Dir  string    `query:"dir,required"`
}

func (a *API) timestampToEvent(ctx context.Context, r *httpapi.Request, in *timestampRequest) (*serverapi.NearestEvent, error) {
	if in.Dir != "f" && in.Dir != "b" {
		return nil, matrixerr.New(matrixerr.InvalidParam, "dir is f or b")
	}
	return a.rooms.ServeNearest(ctx, r.Origin, in.Room, in.TS, in.Dir == "b")
}
