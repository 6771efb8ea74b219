package push

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/delivery"
	"parley/internal/id"
	"parley/internal/mail"
	"parley/storage"
)

const (
	// maxLetter is of how much a mail tells, and maxText how many bytes of each message.
	maxLetter = 50
	maxText   = 500
)

// letter is a mail to be sent.
type letter struct {
	to   string
	news *mail.News
	// oldest is when the first of the news came, in milliseconds.
	oldest int64
	pos    id.Pos
	// stranger says that the address is not the user's any more.
	stranger bool
	pusher   *storage.Pusher
}

// letter is what a mail would tell, of what was not read until now.
func (p *Pusher) letter(tx *storage.Tx, pusher *storage.Pusher, from, to id.Pos) (*letter, error) {
	l := &letter{to: pusher.PushKey, news: &mail.News{User: string(pusher.User)}, pos: to, pusher: pusher}
	address, err := tx.GetThreePID("email", pusher.PushKey)
	if errors.Is(err, storage.ErrNotFound) || err == nil && address.User != pusher.User {
		l.stranger = true
		return l, nil
	} else if err != nil {
		return nil, err
	}
	w := &work{pusher: pusher, settings: &settings{}}
	member, rooms, n := make(map[storage.RoomNID]bool), make(map[id.RoomID]int), 0
	for from < to {
		entries, err := tx.ListLog(from, to, logAtOnce)
		if err != nil {
			return nil, err
		}
		for i := range entries {
			w.body = &notification{}
			found, err := p.try(tx, w, &entries[i], member)
			if err != nil {
				return nil, err
			}
			if !found {
				continue
			}
			if l.oldest == 0 {
				l.oldest = w.sent
			}
			if n++; n > maxLetter {
				l.news.More++
				continue
			}
			at, ok := rooms[w.body.RoomID]
			if !ok {
				at = len(l.news.Rooms)
				rooms[w.body.RoomID] = at
				l.news.Rooms = append(l.news.Rooms, mail.RoomNews{Name: roomName(w.body)})
			}
			room := &l.news.Rooms[at]
			room.Messages = append(room.Messages, mail.Message{Sender: senderName(w.body), Text: textOf(w.body)})
		}
		if len(entries) < logAtOnce {
			break
		}
		from = entries[len(entries)-1].Pos
	}
	return l, nil
}

func roomName(n *notification) string {
	switch {
	case n.RoomName != "":
		return n.RoomName
	case n.RoomAlias != "":
		return n.RoomAlias
	}
	return senderName(n)
}

func senderName(n *notification) string {
	if n.SenderDisplayName != "" {
		return n.SenderDisplayName
	}
	return string(n.Sender)
}

// textOf is what a mail says of an event.
func textOf(n *notification) string {
	switch {
	case n.UserIsTarget && gjson.GetBytes(n.Content, "membership").Str == "invite":
		return "invites you"
	case n.Type == "m.room.encrypted":
		return "an encrypted message"
	}
	text := gjson.GetBytes(n.Content, "body").Str
	if text == "" {
		return "something that a mail can't show"
	}
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

// notYet says that a mail waits for what else may come.
type notYet struct{ wait time.Duration }

func (e notYet) Error() string             { return fmt.Sprintf("the mail is not due for %v", e.wait) }
func (e notYet) RetryAfter() time.Duration { return e.wait }

// mail sends a letter if it was due at a time from before it was made up, so that nothing is in it that was
// read in time.
func (p *Pusher) mail(ctx context.Context, destination string, l *letter, now time.Time) (delivery.Result, error) {
	switch {
	case l.stranger:
		err := p.DB.Write(ctx, func(tx *storage.Tx) error { return tx.DeletePusherAsSet(l.pusher) })
		return delivery.Result{Done: l.pos, Reached: true}, err
	case len(l.news.Rooms) == 0 || p.Mail == nil:
		return delivery.Result{Done: l.pos, Reached: true}, nil
	}
	due := time.UnixMilli(min(l.oldest, now.UnixMilli())).Add(p.MailDelay)
	if last, ok := p.mailed.Get(destination); ok && last.Add(p.MailEvery).After(due) {
		due = last.Add(p.MailEvery)
	}
	if wait := due.Sub(now); wait > 0 {
		return delivery.Result{}, notYet{wait}
	}
	if err := p.Mail.Notify(ctx, l.to, l.news); err != nil {
		p.pushed.WithLabelValues("failed").Inc()
		return delivery.Result{}, err
	}
	p.pushed.WithLabelValues("mailed").Inc()
	p.mailed.Add(destination, now)
	return delivery.Result{Done: l.pos, Reached: true}, nil
}
