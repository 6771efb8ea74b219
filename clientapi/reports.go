package clientapi

import (
	"context"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver"
)

func (a *API) reportRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodPost, Path: v3 + "/rooms/{roomId}/report", Auth: httpapi.User, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.reportRoom)},
		{Method: http.MethodPost, Path: v3 + "/rooms/{roomId}/report/{eventId}", Auth: httpapi.User, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.reportEvent)},
		{Method: http.MethodPost, Path: v3 + "/users/{userId}/report", Auth: httpapi.User, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.reportUser)},
	}
}

type reportRoomRequest struct {
	RoomID id.RoomID `path:"roomId"`
	Reason *string   `json:"reason"`
}

type reportUserRequest struct {
	UserID id.UserID `path:"userId"`
	Reason *string   `json:"reason"`
}

type reportEventRequest struct {
	RoomID  id.RoomID  `path:"roomId"`
	EventID id.EventID `path:"eventId"`
	Reason  string     `json:"reason"`
	Score   *int64     `json:"score"`
}

// spec: client-server-api/modules/report_content.md#reporting-content
func (a *API) reportRoom(ctx context.Context, r *httpapi.Request, in *reportRoomRequest) (*empty, error) {
	if in.Reason == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "reason is missing.")
	}
	return nil, a.rooms.Report(ctx, roomserver.Report{Reporter: r.Caller.User, Room: in.RoomID, Reason: *in.Reason})
}

func (a *API) reportUser(ctx context.Context, r *httpapi.Request, in *reportUserRequest) (*empty, error) {
	if in.Reason == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "reason is missing.")
	}
	return nil, a.rooms.Report(ctx, roomserver.Report{Reporter: r.Caller.User, User: in.UserID, Reason: *in.Reason})
}

func (a *API) reportEvent(ctx context.Context, r *httpapi.Request, in *reportEventRequest) (*empty, error) {
	return nil, a.rooms.Report(ctx, roomserver.Report{Reporter: r.Caller.User, Room: in.RoomID, Event: in.EventID, Reason: in.Reason, Score: in.Score})
}
