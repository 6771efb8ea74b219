package syncapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"parley/internal/filter"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/internal/token"
	"parley/roomserver"
	"parley/storage"
)

// oldRoutes are what clients used before there was /sync, and still use to read rooms that
// they are not in. They are /sync in the clothes of their time.
func (a *API) oldRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodGet, Path: "/_matrix/client/v3/initialSync", Also: []string{"/_matrix/client/api/v1/initialSync"},
			Auth: httpapi.User, Handler: httpapi.Handle(a.initialSync)},
		{Method: http.MethodGet, Path: "/_matrix/client/v3/events", Also: []string{"/_matrix/client/api/v1/events"},
			Auth: httpapi.UserOrGuest, Rate: httpapi.RateNone, Handler: httpapi.Handle(a.events)},
	}
}

// page keeps an answer of /sync.
type page struct {
	header http.Header
	bytes.Buffer
}

func newPage() *page                 { return &page{header: make(http.Header)} }
func (p *page) Header() http.Header  { return p.header }
func (p *page) WriteHeader(code int) {}

type initialSyncRequest struct {
	Limit    *int `query:"limit"`
	Archived bool `query:"archived"`
}

type pagination struct {
	Start string            `json:"start,omitempty"`
	End   string            `json:"end"`
	Chunk []json.RawMessage `json:"chunk"`
}

type roomInfo struct {
	RoomID      id.RoomID         `json:"room_id"`
	Membership  string            `json:"membership"`
	Invite      json.RawMessage   `json:"invite,omitempty"`
	Messages    *pagination       `json:"messages,omitempty"`
	State       []json.RawMessage `json:"state,omitempty"`
	Visibility  string            `json:"visibility,omitempty"`
	AccountData []json.RawMessage `json:"account_data,omitempty"`
}

type initialSyncResponse struct {
	End         string            `json:"end"`
	Presence    []json.RawMessage `json:"presence"`
	Rooms       []roomInfo        `json:"rooms"`
	AccountData []json.RawMessage `json:"account_data"`
}

// initialSync is the first /sync of a client, with the current state of each room.
//
// spec: client-server-api/index.md#get_matrixclientv3initialsync
func (a *API) initialSync(ctx context.Context, r *httpapi.Request, in *initialSyncRequest) (*initialSyncResponse, error) {
	f := &filter.Filter{}
	f.Room.Timeline.Limit = new(defaultLimit)
	if in.Limit != nil {
		if *in.Limit < 0 {
			return nil, matrixerr.New(matrixerr.InvalidParam, "limit must not be negative")
		}
		f.Room.Timeline.Limit = new(max(1, min(*in.Limit, maxLimit)))
	}
	f.Room.IncludeLeave = in.Archived
	// Messages to the device are left for a /sync.
	req := &request{user: r.Caller.User, initial: true, filter: f, stateAfter: true}
	p := newPage()
	if _, err := aside(func() (bool, error) { return a.answer(ctx, req, p, true) }); err != nil {
		return nil, err
	}
	answer := gjson.ParseBytes(p.Bytes())
	out := &initialSyncResponse{
		End: answer.Get("next_batch").Str, Presence: elements(answer.Get("presence.events")),
		AccountData: elements(answer.Get("account_data.events")), Rooms: []roomInfo{},
	}
	for _, section := range []string{"join", "invite", "leave"} {
		answer.Get("rooms." + section).ForEach(func(room, what gjson.Result) bool {
			out.Rooms = append(out.Rooms, oldRoom(id.RoomID(room.Str), section, what, out.End))
			return true
		})
	}
	return out, a.finishRooms(ctx, req.user, out.Rooms)
}

// oldRoom is what /sync says of a room in its older form.
func oldRoom(room id.RoomID, section string, what gjson.Result, end string) roomInfo {
	info := roomInfo{RoomID: room, Membership: section}
	if section == "invite" {
		return info
	}
	info.Messages = &pagination{Start: what.Get("timeline.prev_batch").Str, End: end, Chunk: inRoom(what.Get("timeline.events"), room)}
	info.State = inRoom(what.Get("state_after.events"), room)
	info.AccountData = elements(what.Get("account_data.events"))
	return info
}

// finishRooms adds what /sync does not say.
func (a *API) finishRooms(ctx context.Context, user id.UserID, rooms []roomInfo) error {
	return a.DB.Read(ctx, func(tx *storage.Tx) error {
		for i := range rooms {
			info := &rooms[i]
			room, err := tx.GetRoom(info.RoomID)
			if err != nil {
				return err
			}
			if info.Visibility = "private"; room.Published {
				info.Visibility = "public"
			}
			m, err := tx.GetMembership(user, room.NID)
			if err != nil {
				return err
			}
			info.Membership = m.Membership
			if m.Membership != "invite" || m.Event == 0 {
				continue
			}
			e, err := tx.GetEventByNID(m.Event)
			if err != nil {
				return err
			}
			rendered, err := a.Rooms.Render(tx, nil, &room, []storage.Event{e}, roomserver.Reader{User: user, WithRoomID: true})
			if err != nil {
				return err
			}
			info.Invite = rendered[0]
		}
		return nil
	})
}

// elements are the elements of a JSON list, none where there is no list.
func elements(list gjson.Result) []json.RawMessage {
	out := []json.RawMessage{}
	for _, e := range list.Array() {
		out = append(out, json.RawMessage(e.Raw))
	}
	return out
}

// inRoom is elements for events that /sync has not say of what room they are.
func inRoom(list gjson.Result, room id.RoomID) []json.RawMessage {
	out := elements(list)
	for i, e := range out {
		if named, err := sjson.SetBytes(e, "room_id", string(room)); err == nil {
			out[i] = named
		}
	}
	return out
}

type eventsRequest struct {
	From    string `query:"from"`
	Timeout *int64 `query:"timeout"`
	// RoomID asks of one room, which the user need not be in if all may read it.
	RoomID id.RoomID `query:"room_id"`
}

type eventsResponse struct {
	Start string            `json:"start"`
	End   string            `json:"end"`
	Chunk []json.RawMessage `json:"chunk"`
}

// events waits for news, as /sync does, and gives them in one list.
//
// spec: client-server-api/index.md#get_matrixclientv3events
func (a *API) events(ctx context.Context, r *httpapi.Request, in *eventsRequest) (*eventsResponse, error) {
	hold := 30 * time.Second
	if in.Timeout != nil {
		hold = time.Duration(min(max(*in.Timeout, 0), maxTimeout.Milliseconds())) * time.Millisecond
	}
	since := a.Hub.Head()
	if in.From != "" {
		pos, seq, err := token.ParseSync(a.DB.Epoch(), a.Hub.Life(), in.From)
		if err != nil || pos < 0 {
			return nil, matrixerr.New(matrixerr.InvalidParam, "from is not a token of this server")
		}
		since = stream.Mark{Pos: id.Pos(pos), Seq: seq}
	} else if err := a.DB.Read(ctx, func(tx *storage.Tx) (err error) { since.Pos, err = tx.GetPos(); return err }); err != nil {
		return nil, err
	}
	if in.RoomID != "" {
		return a.peek(ctx, r.Caller.User, in.RoomID, since.Pos, hold)
	}
	f := &filter.Filter{}
	f.Room.Timeline.Limit = new(maxLimit)
	req := &request{user: r.Caller.User, since: since, filter: f}
	a.Users.Syncing(req.user, "online", hold)
	start := a.mark(since)
	timer := time.NewTimer(hold)
	defer timer.Stop()
	for last := hold == 0; ; {
		if err := a.Hub.Track(ctx, req.user); err != nil {
			return nil, err
		}
		p := newPage()
		told, err := aside(func() (bool, error) { return a.answer(ctx, req, p, last) })
		if err != nil {
			return nil, err
		}
		if told {
			answer := gjson.ParseBytes(p.Bytes())
			return &eventsResponse{start, answer.Get("next_batch").Str, flatten(answer)}, nil
		}
		switch last, err = a.Hub.Wait(ctx, req.user, req.since, timer.C); {
		case errors.Is(err, stream.ErrClosed):
			last = true
		case err != nil:
			return nil, err
		}
	}
}

// mark is the token for what a client has been told.
func (a *API) mark(m stream.Mark) string {
	return string(token.AppendSync(nil, a.DB.Epoch(), int64(m.Pos), a.Hub.Life(), m.Seq))
}

// flatten makes one list of an answer of /sync.
func flatten(answer gjson.Result) []json.RawMessage {
	chunk := elements(answer.Get("presence.events"))
	for _, section := range []string{"join", "leave"} {
		answer.Get("rooms." + section).ForEach(func(room, what gjson.Result) bool {
			for _, part := range []string{"state.events", "timeline.events", "ephemeral.events"} {
				chunk = append(chunk, inRoom(what.Get(part), id.RoomID(room.Str))...)
			}
			return true
		})
	}
	answer.Get("rooms.invite").ForEach(func(room, what gjson.Result) bool {
		chunk = append(chunk, inRoom(what.Get("invite_state.events"), id.RoomID(room.Str))...)
		return true
	})
	return chunk
}

// peekEvery is how often a room is looked at whose reader nobody wakes, as they are not in it.
const peekEvery = time.Second

// peek waits for events of one room that the user may see, in it or not.
//
// spec: client-server-api/modules/room_previews.md#room-previews
func (a *API) peek(ctx context.Context, user id.UserID, room id.RoomID, from id.Pos, hold time.Duration) (*eventsResponse, error) {
	deadline := time.NewTimer(hold)
	defer deadline.Stop()
	every := time.NewTicker(peekEvery)
	defer every.Stop()
	for last := hold == 0; ; {
		at, events, err := a.newInRoom(ctx, user, room, from)
		if err != nil {
			return nil, err
		}
		if len(events) > 0 || last {
			return &eventsResponse{token.Format(a.DB.Epoch(), int64(from)), token.Format(a.DB.Epoch(), int64(at)), events}, nil
		}
		select {
		case <-every.C:
		case <-deadline.C:
			last = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// newInRoom are the events of a room after a position that the user may see, and where to go on.
func (a *API) newInRoom(ctx context.Context, user id.UserID, room id.RoomID, from id.Pos) (at id.Pos, events []json.RawMessage, err error) {
	refused := matrixerr.New(matrixerr.Forbidden, "You are not in this room, and not everybody may read it.")
	err = a.DB.Read(ctx, func(tx *storage.Tx) error {
		if at, err = tx.GetPos(); err != nil {
			return err
		}
		view, err := a.Rooms.View(tx, user, room)
		if errors.Is(err, storage.ErrNotFound) {
			return refused
		} else if err != nil {
			return err
		}
		if !view.Joined() {
			if readable, err := view.WorldReadable(); err != nil {
				return err
			} else if !readable {
				return refused
			}
		}
		start := storage.Ord(from)
		rows, err := a.Rooms.Timeline(tx, view, &roomserver.PageRequest{From: &start, Limit: maxLimit})
		if err != nil {
			return err
		}
		if len(rows) == maxLimit {
			at = id.Pos(rows[len(rows)-1].Ord)
		}
		plain := make([]storage.Event, len(rows))
		for i := range rows {
			plain[i] = rows[i].Event
		}
		events, err = a.Rooms.Render(tx, view, &view.Room, plain, roomserver.Reader{User: user, WithRoomID: true})
		return err
	})
	return at, events, err
}
