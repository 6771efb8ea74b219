// Package push delivers notifications to push gateways, which wake the phones of our users, and
// by mail to those who ask for it.
// Whom an event is to be pushed to follows from the push rules, which package unread knows;
// when to deliver, and when to try again, is internal/delivery's business. This package says
// which pushers a piece of the log concerns, and tells their gateways.
//
// What a user has read meanwhile, on whatever device, is not pushed any more. How much they
// have not read goes with each notification; when that becomes less, as they read, leave a room or
// send something, or as what was counted is redacted, it is told by itself. The database knows
// whose phone may show a number, so that it comes to show none after a restart, too.
//
// spec: push-gateway-api.md, client-server-api/modules/push.md
package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/gjson"

	"parley/internal/delivery"
	"parley/internal/id"
	"parley/internal/mail"
	"parley/internal/stream"
	"parley/internal/unread"
	"parley/storage"
)

const (
	// requestTime bounds one request to a gateway.
	requestTime = 30 * time.Second
	// noticesKept is how many notices may wait to be gone through.
	noticesKept = 4096
	// logAtOnce is how many events are gone through at a time.
	logAtOnce = 500
	// tooOld is how old an event may be that is worth waking somebody for.
	tooOld = 24 * time.Hour
	// knownTotals bounds the pushers of which is remembered how much they were told is unread.
	knownTotals = 50_000
)

// Rooms says what rooms and people are called.
type Rooms interface {
	StateContent(tx *storage.Tx, room *storage.Room, root int64, eventType, stateKey string) ([]byte, error)
	MembersAt(tx *storage.Tx, root int64, users []id.UserID) ([]storage.Event, error)
}

// Mailer sends mails of what people have not read.
type Mailer interface {
	Notify(ctx context.Context, to string, n *mail.News) error
}

// Options is what pushing needs. DB, Rooms, Unread and Broker must be given; the rest has
// defaults.
type Options struct {
	DB     *storage.DB
	Rooms  Rooms
	Unread *unread.Counter
	Broker *stream.Broker
	// Mail sends mails; nil where there are none. One comes MailDelay after what it tells of, and
	// with what else has come until then, and MailEvery after the one before.
	Mail                 Mailer
	MailDelay, MailEvery time.Duration
	// Dial connects to gateways; nil connects to all.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// After a failure a gateway is left alone, for one pusher, for MinDelay, twice that after the
	// next, and so on up to MaxDelay.
	MinDelay, MaxDelay time.Duration
	// Shared says that other processes have the same database.
	Shared bool
	// Now is the clock.
	Now     func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Pusher pushes.
type Pusher struct {
	Options
	queue  *delivery.Queue
	client *http.Client
	// told is how much each destination was told is unread.
	told *lru.Cache[string, int]
	// mailed is when each destination was last sent a mail.
	mailed *lru.Cache[string, time.Time]
	pushed *prometheus.CounterVec
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// New starts to push; Close ends it.
func New(o Options) (*Pusher, error) {
	if o.DB == nil || o.Rooms == nil || o.Unread == nil || o.Broker == nil {
		return nil, errors.New("push: database, rooms, unread counts and broker must be given")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MinDelay == 0 {
		o.MinDelay = 5 * time.Second
	}
	if o.MaxDelay == 0 {
		o.MaxDelay = time.Hour
	}
	if o.MailDelay == 0 {
		o.MailDelay = 10 * time.Minute
	}
	if o.MailEvery == 0 {
		o.MailEvery = 30 * time.Minute
	}
	told, err := lru.New[string, int](knownTotals)
	if err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	mailed, err := lru.New[string, time.Time](knownTotals)
	if err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	p := &Pusher{Options: o, told: told, mailed: mailed, client: newClient(o.Dial), pushed: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "parley_push_requests_total", Help: "Requests to push gateways.",
	}, []string{"outcome"})}
	if o.Metrics != nil {
		if err := o.Metrics.Register(p.pushed); err != nil {
			return nil, fmt.Errorf("push: %w", err)
		}
	}
	notices := o.Broker.Subscribe(noticesKept, stream.Event, stream.Receipt, stream.AccountData)
	p.queue, err = delivery.New(delivery.Options{
		DB: o.DB, Name: "push", Consumer: p, MinDelay: o.MinDelay, MaxDelay: o.MaxDelay, Shared: o.Shared,
		Log: o.Log, Metrics: o.Metrics,
	})
	if err != nil {
		notices.Close()
		return nil, fmt.Errorf("push: %w", err)
	}
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.Background())
	p.done.Go(func() {
		defer notices.Close()
		p.listen(ctx, notices)
	})
	return p, nil
}

func newClient(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Client {
	return &http.Client{
		Timeout: requestTime,
		Transport: &http.Transport{
			DialContext: dial, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 8, MaxConnsPerHost: 32, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close ends what is being pushed. What was not taken is pushed after the next start.
func (p *Pusher) Close() {
	p.stop()
	p.done.Wait()
	p.queue.Close()
	p.client.CloseIdleConnections()
}

// listen goes through notices until ctx is done.
func (p *Pusher) listen(ctx context.Context, notices *stream.Subscription) {
	notices.Each(ctx, func(n *stream.Notice) {
		switch n.Kind {
		case stream.Event, stream.Receipt:
			if n.Pos > 0 {
				p.queue.Advance(n.Pos, true)
			}
		case stream.AccountData:
			p.queue.Advance(n.Pos, false)
			for _, user := range n.Users {
				if err := p.recount(ctx, user); err != nil && ctx.Err() == nil {
					p.Log.Warn("cannot tell that less is unread", "user", user, "error", err)
				}
			}
		}
	}, p.queue.Reread)
}

// recount has the gateways of a user told how much is unread now: their push rules may have changed,
// or whom they ignore. It is no matter of which another attempt is made.
func (p *Pusher) recount(ctx context.Context, user id.UserID) error {
	pushers, err := storage.Get(ctx, p.DB, func(tx *storage.Tx) ([]storage.Pusher, error) { return tx.ListPushers(user) })
	for i := range pushers {
		if pushers[i].Badge {
			p.queue.Poke(destinationOf(&pushers[i]))
		}
	}
	return err
}

// destinationOf names a pusher: no part has a space but the last.
func destinationOf(p *storage.Pusher) string {
	return url.PathEscape(string(p.User)) + " " + url.PathEscape(p.AppID) + " " + p.PushKey
}

// pusherOf is the pusher that a destination names.
func pusherOf(destination string) (user id.UserID, app, key string, err error) {
	parts := strings.SplitN(destination, " ", 3)
	if len(parts) != 3 {
		return "", "", "", fmt.Errorf("push: %q names no pusher", destination)
	}
	name, err := url.PathUnescape(parts[0])
	if err == nil {
		app, err = url.PathUnescape(parts[1])
	}
	return id.UserID(name), app, parts[2], err
}

// Route says which pushers a piece of the log concerns.
func (p *Pusher) Route(ctx context.Context, from, to id.Pos) ([]delivery.Concern, error) {
	concerns := make(map[string]*delivery.Concern)
	err := p.DB.Read(ctx, func(tx *storage.Tx) error {
		if some, err := tx.HasPushers(); err != nil || !some {
			return err
		}
		r := router{Pusher: p, tx: tx, concerns: concerns, members: make(map[storage.RoomNID][]storage.PushMember)}
		if err := r.read(from, to); err != nil {
			return err
		}
		for {
			entries, err := tx.ListLog(from, to, logAtOnce)
			if err != nil {
				return err
			}
			for i := range entries {
				if err := r.event(&entries[i]); err != nil {
					return err
				}
			}
			if len(entries) < logAtOnce {
				return nil
			}
			from = entries[len(entries)-1].Pos
		}
	})
	out := make([]delivery.Concern, 0, len(concerns))
	for _, c := range concerns {
		out = append(out, *c)
	}
	return out, err
}

// Forget has nothing to forget: what was pushed is in the log alone.
func (p *Pusher) Forget(context.Context, id.Pos) error { return nil }

// router finds out whom a piece of the log concerns, in one snapshot.
type router struct {
	*Pusher
	tx       *storage.Tx
	concerns map[string]*delivery.Concern
	members  map[storage.RoomNID][]storage.PushMember
}

// read goes through who has read on.
func (r *router) read(from, to id.Pos) error {
	list, err := r.tx.ListPushUsersRead(from, to)
	for i := range list {
		if err == nil {
			err = r.concern(list[i].User, list[i].Pos)
		}
	}
	return err
}

// event goes through one event.
func (r *router) event(l *storage.LogEntry) error {
	row, room, err := eventOf(r.tx, l)
	if errors.Is(err, storage.ErrNotFound) {
		return nil // it is gone, and nobody is told of it
	} else if err != nil {
		return err
	}
	members, ok := r.members[l.Room]
	if !ok {
		if members, err = r.tx.ListPushMembers(l.Room); err != nil {
			return err
		}
		r.members[l.Room] = members
	}
	users, err := r.Unread.Notified(r.tx, room, row, members)
	if err != nil {
		return err
	}
	for _, user := range append(users, lessUnread(row.JSON, members)...) {
		if err := r.concern(user, l.Pos); err != nil {
			return err
		}
	}
	return nil
}

// lessUnread are those for whom less may be unread because of an event: whose membership it changes
// (and who may be notified of that), who sent it, as they have read what is before it, and who
// was told of what a redaction takes away.
func lessUnread(event []byte, members []storage.PushMember) []id.UserID {
	f := gjson.GetManyBytes(event, "type", "state_key", "sender")
	state := f[1].Exists()
	if state && f[0].Str == "m.room.member" {
		return []id.UserID{id.UserID(f[1].Str)}
	}
	redaction := !state && f[0].Str == "m.room.redaction"
	var out []id.UserID
	for i := range members {
		if m := &members[i]; m.Badge && !state && (redaction || string(m.User) == f[2].Str) {
			out = append(out, m.User)
		}
	}
	return out
}

// concern notes that there may be something to tell a user's gateways at a position.
func (r *router) concern(user id.UserID, pos id.Pos) error {
	pushers, err := r.tx.ListPushers(user)
	for i := range pushers {
		d := destinationOf(&pushers[i])
		if c := r.concerns[d]; c != nil {
			c.First, c.Last = min(c.First, pos), max(c.Last, pos)
		} else {
			r.concerns[d] = &delivery.Concern{Destination: d, First: pos, Last: pos}
		}
	}
	return err
}

// eventOf is an event of the log with its room.
func eventOf(tx *storage.Tx, l *storage.LogEntry) (*storage.TimelineEvent, *storage.Room, error) {
	room, err := tx.GetRoomByNID(l.Room)
	if err != nil {
		return nil, nil, err
	}
	rows, err := tx.ListTimelineBackwards(l.Room, storage.Ord(l.Pos), storage.Ord(l.Pos)-1, 1)
	if err == nil && len(rows) == 0 {
		err = storage.ErrNotFound
	}
	if err != nil {
		return nil, nil, err
	}
	return &rows[0], &room, nil
}
