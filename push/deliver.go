package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/tidwall/gjson"

	"parley/internal/delivery"
	"parley/internal/id"
	"parley/internal/unread"
	"parley/storage"
)

// maxResponse bounds what is read of a gateway's answer.
const maxResponse = 64 << 10

// The kinds of pushers: gateways, and mail.
const (
	kindHTTP  = "http"
	kindEmail = "email"
)

// settings are what a client has set of a pusher.
type settings struct {
	Kind string `json:"kind"`
	Data struct {
		URL    string `json:"url"`
		Format string `json:"format"`
	} `json:"data"`
	// rest is the data as the gateway gets it.
	rest map[string]json.RawMessage
}

func parseSettings(text []byte) (*settings, error) {
	var s settings
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("a pusher's settings: %w", err)
	}
	if err := json.Unmarshal([]byte(gjson.GetBytes(text, "data").Raw), &s.rest); err != nil {
		return nil, fmt.Errorf("a pusher's data: %w", err)
	}
	delete(s.rest, "url")
	return &s, nil
}

// work is one notification to deliver, or, without an event, how much is unread.
type work struct {
	pusher *storage.Pusher
	*settings
	body   *notification
	unread int
	pos    id.Pos
	// sent is when the event was sent, in milliseconds.
	sent int64
	// coming says that there is a later event to be told, by which more is unread.
	coming bool
}

// notification is what a gateway is told.
//
// spec: push-gateway-api.md#post_matrixpushv1notify
type notification struct {
	EventID           id.EventID      `json:"event_id,omitempty"`
	RoomID            id.RoomID       `json:"room_id,omitempty"`
	Type              string          `json:"type,omitempty"`
	Sender            id.UserID       `json:"sender,omitempty"`
	SenderDisplayName string          `json:"sender_display_name,omitempty"`
	RoomName          string          `json:"room_name,omitempty"`
	RoomAlias         string          `json:"room_alias,omitempty"`
	UserIsTarget      bool            `json:"user_is_target,omitempty"`
	Prio              string          `json:"prio,omitempty"`
	Content           json.RawMessage `json:"content,omitempty"`
	Counts            map[string]int  `json:"counts"`
	Devices           []device        `json:"devices"`
}

type device struct {
	AppID     string                     `json:"app_id"`
	PushKey   string                     `json:"pushkey"`
	PushKeyTS int64                      `json:"pushkey_ts"`
	Data      map[string]json.RawMessage `json:"data"`
	Tweaks    map[string]any             `json:"tweaks,omitempty"`
}

// Deliver pushes the first notification that a pusher has not got; where there is none, how
// much is unread if that has changed.
func (p *Pusher) Deliver(ctx context.Context, destination string, from, to id.Pos) (delivery.Result, error) {
	now := p.Now()
	w, l, err := p.waiting(ctx, destination, from, to)
	if err == nil && w != nil && w.unread > 0 && !w.pusher.Badge {
		// Noted before anything is told, so that it is taken back in any case; and what is told is what
		// is unread after that, as from then on the log says whom what happens concerns.
		if err = p.DB.Write(ctx, func(tx *storage.Tx) error { return tx.UpdatePusherBadge(w.pusher, true) }); err == nil {
			w, l, err = p.waiting(ctx, destination, from, to)
		}
	}
	switch {
	case err != nil:
		return delivery.Result{}, err
	case l != nil:
		return p.mail(ctx, destination, l, now)
	case w == nil:
		return delivery.Result{Done: to}, nil
	}
	before, known := p.told.Get(destination)
	if w.body.EventID == "" && (known && before == w.unread || !known && !w.pusher.Badge || w.coming) {
		return delivery.Result{Done: to}, nil // that is what is shown, or comes with what there is to show
	}
	rejected, err := p.post(ctx, w)
	switch {
	case err != nil:
		p.pushed.WithLabelValues("failed").Inc()
		return delivery.Result{}, fmt.Errorf("push to %s: %w", w.Data.URL, err)
	case slices.Contains(rejected, w.pusher.PushKey):
		p.pushed.WithLabelValues("rejected").Inc()
		p.told.Remove(destination)
		// If it was set again meanwhile, it is for what comes next.
		err := p.DB.Write(ctx, func(tx *storage.Tx) error { return tx.DeletePusherAsSet(w.pusher) })
		return delivery.Result{Done: w.pos, Reached: true}, err
	}
	p.pushed.WithLabelValues("ok").Inc()
	p.told.Add(destination, w.unread)
	if w.unread == 0 && w.pusher.Badge {
		err = p.DB.Write(ctx, func(tx *storage.Tx) error { return tx.UpdatePusherBadge(w.pusher, false) })
	}
	return delivery.Result{Done: w.pos, Reached: true}, err
}

// waiting is what is to be told to a gateway, or by mail; both are nil where there is no such pusher.
func (p *Pusher) waiting(ctx context.Context, destination string, from, to id.Pos) (w *work, l *letter, err error) {
	user, app, key, err := pusherOf(destination)
	if err != nil {
		return nil, nil, err
	}
	err = p.DB.Read(ctx, func(tx *storage.Tx) error {
		w, l = nil, nil
		pusher, err := tx.GetPusher(user, app, key)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		s, err := parseSettings(pusher.JSON)
		if err != nil {
			return err
		}
		switch s.Kind {
		case kindHTTP:
			w, err = p.next(tx, &pusher, s, from, to)
		case kindEmail:
			l, err = p.letter(tx, &pusher, from, to)
		}
		return err
	})
	return w, l, err
}

// next is what a gateway is to be told next.
func (p *Pusher) next(tx *storage.Tx, pusher *storage.Pusher, s *settings, from, to id.Pos) (*work, error) {
	w := &work{pusher: pusher, settings: s, pos: to, body: &notification{}}
	found, err := p.find(tx, w, from, to)
	if err == nil {
		err = p.count(tx, w)
	}
	if before, _ := p.told.Get(destinationOf(pusher)); err != nil || found || w.unread <= before {
		return w, err
	}
	head, err := tx.GetPos()
	if err != nil {
		return nil, err
	}
	w.coming, err = p.find(tx, &work{pusher: pusher, settings: s, body: &notification{}}, to, head)
	return w, err
}

// find makes the first event in a piece of the log of which the pusher's user is to be notified what is told.
func (p *Pusher) find(tx *storage.Tx, w *work, from, to id.Pos) (found bool, err error) {
	member := make(map[storage.RoomNID]bool)
	for from < to {
		entries, err := tx.ListLog(from, to, logAtOnce)
		if err != nil {
			return false, err
		}
		for i := range entries {
			if found, err := p.try(tx, w, &entries[i], member); err != nil || found {
				w.pos = entries[i].Pos
				return found, err
			}
		}
		if len(entries) < logAtOnce {
			break
		}
		from = entries[len(entries)-1].Pos
	}
	return false, nil
}

// count finds out how much is unread.
func (p *Pusher) count(tx *storage.Tx, w *work) (err error) {
	if w.unread, err = p.Unread.Total(tx, w.pusher.User); err != nil {
		return err
	}
	// A count of zero should be left out; but where it is all that is told, it is the news.
	w.body.Counts = map[string]int{}
	if w.unread > 0 || w.body.EventID == "" {
		w.body.Counts["unread"] = w.unread
	}
	return nil
}

// try makes an event what is told, if the pusher's user is to be notified of it. member are the
// rooms of which is known whether the user has to do with them.
func (p *Pusher) try(tx *storage.Tx, w *work, l *storage.LogEntry, member map[storage.RoomNID]bool) (bool, error) {
	user := w.pusher.User
	is, ok := member[l.Room]
	if !ok {
		m, err := tx.GetMembership(user, l.Room)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return false, err
		}
		is = err == nil && (m.Membership == "join" || m.Membership == "invite")
		member[l.Room] = is
	}
	if !is {
		return false, nil
	}
	row, room, err := eventOf(tx, l)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	w.sent = gjson.GetBytes(row.JSON, "origin_server_ts").Int()
	if p.Now().UnixMilli()-w.sent > tooOld.Milliseconds() {
		return false, nil
	}
	pending, err := p.Unread.Pending(tx, user, room, row)
	if err != nil || pending == nil {
		return false, err
	}
	return true, p.describe(tx, w, room, row, pending)
}

// describe says what a gateway is told of an event.
func (p *Pusher) describe(tx *storage.Tx, w *work, room *storage.Room, row *storage.TimelineEvent, pending *unread.Pending) error {
	n := w.body
	n.EventID, n.RoomID, n.Prio = row.ID, room.ID, "low"
	if pending.Highlight || pending.Sound != "" {
		n.Prio = "high"
	}
	tweaks := make(map[string]any)
	if pending.Highlight {
		tweaks["highlight"] = true
	}
	if pending.Sound != "" {
		tweaks["sound"] = pending.Sound
	}
	n.Devices = []device{{Tweaks: tweaks}}
	if w.Data.Format == "event_id_only" {
		// spec: client-server-api/modules/push.md#post_matrixclientv3pushersset
		n.Prio, n.Devices = "", nil
		return nil
	}
	f := gjson.GetManyBytes(row.JSON, "type", "sender", "state_key", "content")
	n.Type, n.Sender, n.Content = f[0].Str, id.UserID(f[1].Str), json.RawMessage(f[3].Raw)
	n.UserIsTarget = n.Type == "m.room.member" && f[2].Str == string(w.pusher.User)
	members, err := p.Rooms.MembersAt(tx, row.Root, []id.UserID{n.Sender})
	if err != nil {
		return err
	}
	if len(members) > 0 {
		n.SenderDisplayName = gjson.GetBytes(members[0].JSON, "content.displayname").Str
	}
	for _, name := range [...]struct {
		to      *string
		typ, of string
	}{{&n.RoomName, "m.room.name", "name"}, {&n.RoomAlias, "m.room.canonical_alias", "alias"}} {
		content, err := p.Rooms.StateContent(tx, room, row.Root, name.typ, "")
		if err != nil {
			return err
		}
		*name.to = gjson.GetBytes(content, name.of).Str
	}
	return nil
}

// post tells a gateway, and gives the keys that it wants to hear no more of.
func (p *Pusher) post(ctx context.Context, w *work) (rejected []string, err error) {
	var tweaks map[string]any
	if len(w.body.Devices) > 0 {
		tweaks = w.body.Devices[0].Tweaks
	}
	w.body.Devices = []device{{
		AppID: w.pusher.AppID, PushKey: w.pusher.PushKey, PushKeyTS: w.pusher.Created / 1000, Data: w.rest, Tweaks: tweaks,
	}}
	text, err := json.Marshal(map[string]*notification{"notification": w.body})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.Data.URL, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the gateway answers with status %d", resp.StatusCode)
	}
	for _, k := range gjson.GetBytes(body, "rejected").Array() {
		rejected = append(rejected, k.Str)
	}
	return rejected, nil
}
