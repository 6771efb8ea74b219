package appservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/internal/delivery"
	"parley/internal/id"
	"parley/internal/stream"
	"parley/storage"
)

const (
	// noticesKept is how many notices may wait to be gone through.
	noticesKept = 4096
	// logAtOnce is how many events are gone through at a time, and maxScan in one delivery.
	logAtOnce = 500
	maxScan   = 20_000
	// maxPassing bounds what waits for a service that is not in the log, of each kind.
	maxPassing = 1000
)

// Rooms knows what rooms were like, and how services are shown their events.
type Rooms interface {
	// MembersAt are the member events of users in a state.
	MembersAt(tx *storage.Tx, root int64, users []id.UserID) ([]storage.Event, error)
	// RenderWhole gives events the form that a client is shown of them by themselves.
	RenderWhole(tx *storage.Tx, room *storage.Room, events []storage.Event) ([]json.RawMessage, error)
}

// Users knows who is there.
type Users interface {
	// Typing is who types in a room.
	Typing(room id.RoomID) (users []id.UserID, serial uint64)
}

// Presence is how a user shows themselves.
type Presence struct {
	State           string
	StatusMsg       string
	LastActive      time.Time
	CurrentlyActive bool
}

// SenderOptions is what a sender needs. DB, Services, Rooms, Users and Broker must be given; the rest has defaults.
type SenderOptions struct {
	DB       *storage.DB
	Services *Services
	Rooms    Rooms
	Users    Users
	Broker   *stream.Broker
	// Presence is a user's presence; nil where there is none.
	Presence func(user id.UserID) Presence
	// After a failure a service is left alone for MinDelay, twice that after the next, and so on up to MaxDelay.
	MinDelay, MaxDelay time.Duration
	// Shared says that other processes have the same database.
	Shared bool
	// Now is the clock.
	Now     func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Sender sends to application services what happens.
type Sender struct {
	o       SenderOptions
	queue   *delivery.Queue
	members *members
	sent    *prometheus.CounterVec
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu      sync.Mutex
	passing map[string]*passing // by service
}

// passing is what waits for a service without being in the log. It is no loss if a restart forgets it.
type passing struct {
	typing   map[id.RoomID]struct{}
	presence map[id.UserID]struct{}
	keys     map[id.UserID]struct{} // whose one-time keys have become fewer
}

// note notes one more that waits, as far as there is room.
func note[K comparable](to *map[K]struct{}, k K) {
	if *to == nil {
		*to = make(map[K]struct{})
	}
	if len(*to) < maxPassing {
		(*to)[k] = struct{}{}
	}
}

// NewSender starts to send; Close ends it.
func NewSender(o SenderOptions) (*Sender, error) {
	if o.DB == nil || o.Services == nil || o.Rooms == nil || o.Users == nil || o.Broker == nil {
		return nil, errors.New("application services: database, services, rooms, users and broker must be given")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxDelay == 0 {
		// What bridges do is waited for, and they are few.
		o.MaxDelay = time.Minute
	}
	s := &Sender{o: o, passing: make(map[string]*passing), sent: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "parley_appservice_transactions_total", Help: "Transactions that were sent to application services.",
	}, []string{"service", "outcome"})}
	if o.Metrics != nil {
		if err := o.Metrics.Register(s.sent); err != nil {
			return nil, fmt.Errorf("application services: %w", err)
		}
	}
	var err error
	if s.members, err = newMembers(o.Services.list); err != nil {
		return nil, fmt.Errorf("application services: %w", err)
	}
	notices := o.Broker.Subscribe(noticesKept, stream.Event, stream.ToDevice, stream.DeviceList, stream.Device, stream.Receipt,
		stream.Typing, stream.Presence, stream.KeyCounts)
	s.queue, err = delivery.New(delivery.Options{
		DB: o.DB, Name: "appservice", Consumer: s, MinDelay: o.MinDelay, MaxDelay: o.MaxDelay, Shared: o.Shared, Log: o.Log, Metrics: o.Metrics,
	})
	if err != nil {
		notices.Close()
		return nil, fmt.Errorf("application services: %w", err)
	}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	s.done.Go(func() {
		defer notices.Close()
		s.listen(ctx, notices)
	})
	return s, nil
}

// Close ends what is being sent. What was not taken is sent after the next start.
func (s *Sender) Close() {
	s.stop()
	s.done.Wait()
	s.queue.Close()
}

// Heard says that a service was heard from: if it could not be reached, it may be worth trying again.
func (s *Sender) Heard(service string) { s.queue.Heard(service) }

// listen goes through notices until ctx is done.
func (s *Sender) listen(ctx context.Context, notices *stream.Subscription) {
	notices.Each(ctx, func(n *stream.Notice) {
		if err := s.hear(ctx, n); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("cannot see to a notice", "kind", n.Kind, "room", n.Room, "error", err)
		}
	}, func() {
		s.members.purge()
		s.queue.Reread()
	})
}

// hear goes through one notice.
func (s *Sender) hear(ctx context.Context, n *stream.Notice) error {
	switch n.Kind {
	case stream.Event:
		if len(n.Users) > 0 {
			s.members.forget(n.Room)
		}
		s.queue.Advance(n.Pos, true)
	case stream.ToDevice, stream.DeviceList, stream.Receipt:
		s.queue.Advance(n.Pos, true)
	case stream.Device:
		s.queue.Advance(n.Pos, false)
	case stream.Typing:
		return s.pass(ctx, func(service *Service) bool { return service.hearsEphemeral() },
			func(w *watch, service *Service) (bool, error) {
				room, err := w.tx.GetRoom(n.Room)
				if err != nil {
					return false, ignoreNotFound(err)
				}
				return w.now(service, &room)
			}, func(p *passing) { note(&p.typing, n.Room) })
	case stream.Presence:
		if s.o.Presence == nil {
			return nil
		}
		return s.pass(ctx, func(service *Service) bool { return service.hearsEphemeral() },
			func(w *watch, service *Service) (bool, error) { return w.shares(service, n.User) }, func(p *passing) { note(&p.presence, n.User) })
	case stream.KeyCounts:
		for _, user := range n.Users {
			err := s.pass(ctx, func(service *Service) bool { return service.devices && service.hasUser(user) },
				func(*watch, *Service) (bool, error) { return true, nil }, func(p *passing) { note(&p.keys, user) })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	return err
}

// hearsEphemeral says whether a service wants what is not in rooms' history.
func (s *Service) hearsEphemeral() bool { return s.ephemeral || s.oldEphemeral }

// pass has what is not in the log wait for those services that may want it and that it concerns.
func (s *Sender) pass(ctx context.Context, may func(*Service) bool, concerns func(*watch, *Service) (bool, error), put func(*passing)) error {
	for _, service := range s.o.Services.list {
		if service.url == "" || !may(service) || s.queue.Failing(service.ID) {
			continue
		}
		var is bool
		err := s.o.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			is, err = concerns(s.watch(tx), service)
			return err
		})
		if err != nil {
			return err
		}
		if !is {
			continue
		}
		s.mu.Lock()
		p := s.passing[service.ID]
		if p == nil {
			p = &passing{}
			s.passing[service.ID] = p
		}
		put(p)
		s.mu.Unlock()
		s.queue.Poke(service.ID)
	}
	return nil
}

// takePassing is what waits for a service without being in the log, which waits no longer.
func (s *Sender) takePassing(service string) passing {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.passing[service]
	delete(s.passing, service)
	if p == nil {
		return passing{}
	}
	return *p
}

// Route says which services a piece of the log concerns. That it may is enough: what is sent is found out
// when it is.
func (s *Sender) Route(ctx context.Context, from, to id.Pos) ([]delivery.Concern, error) {
	found := make(map[*Service]delivery.Concern)
	concern := func(service *Service, pos id.Pos) {
		c, ok := found[service]
		if !ok {
			c = delivery.Concern{Destination: service.ID, First: pos}
		}
		c.First, c.Last = min(c.First, pos), max(c.Last, pos)
		found[service] = c
	}
	err := s.o.DB.Read(ctx, func(tx *storage.Tx) error {
		clear(found)
		w := s.watch(tx)
		for _, service := range s.o.Services.list {
			if service.url == "" {
				continue
			}
			if err := s.route(w, service, from, to, func(pos id.Pos) { concern(service, pos) }); err != nil {
				return err
			}
		}
		return nil
	})
	out := make([]delivery.Concern, 0, len(found))
	for _, c := range found {
		out = append(out, c)
	}
	return out, err
}

func (s *Sender) route(w *watch, service *Service, from, to id.Pos, concern func(id.Pos)) error {
	g := gathering{watch: w, service: service}
	for at := from; at < to; {
		last, events, err := g.events(at, to, logAtOnce, logAtOnce)
		if err != nil {
			return err
		}
		for i := range events {
			concern(events[i].pos)
		}
		at = last
	}
	for _, list := range []func(from, to id.Pos) (id.Pos, []item, error){g.invites, g.messages, g.receipts, g.deviceLists} {
		for at := from; at < to; {
			last, items, err := list(at, to)
			if err != nil {
				return err
			}
			for i := range items {
				concern(items[i].pos)
			}
			at = last
		}
	}
	return nil
}

// Forget has nothing to forget: what was taken is in the log alone.
func (s *Sender) Forget(context.Context, id.Pos) error { return nil }

// Deliver sends a service its next transaction. One that may have been sent before is sent again as it was, by
// the same name, as the service may have taken it.
//
// spec: application-service-api.md#pushing-events
func (s *Sender) Deliver(ctx context.Context, destination string, from, to id.Pos) (delivery.Result, error) {
	service := s.o.Services.get(destination)
	if service == nil || service.url == "" {
		return delivery.Result{Done: to}, nil // it is no service any more
	}
	t, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) (storage.ServiceTransaction, error) { return tx.GetServiceTransaction(destination) })
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return delivery.Result{}, err
	}
	if t.Body == nil {
		from = max(from, t.Pos)
		done, body, err := s.gather(ctx, service, from, max(from, to))
		if err != nil || body == nil {
			return delivery.Result{Done: done}, err
		}
		t = storage.ServiceTransaction{Service: destination, Number: t.Number + 1, From: from, Pos: done, Body: body}
		if err := s.o.DB.Write(ctx, func(tx *storage.Tx) error { return tx.InsertServiceTransaction(&t) }); err != nil {
			return delivery.Result{}, err
		}
	}
	if err := s.send(ctx, service, &t); err != nil {
		s.sent.WithLabelValues(destination, "failed").Inc()
		return delivery.Result{}, fmt.Errorf("transaction %d: %w", t.Number, err)
	}
	s.sent.WithLabelValues(destination, "ok").Inc()
	err = s.o.DB.Write(ctx, func(tx *storage.Tx) error { return tx.UpdateServiceTransactionTaken(&t, service.hearsEphemeral()) })
	s.mu.Lock()
	more := s.passing[destination] != nil
	s.mu.Unlock()
	return delivery.Result{Done: t.Pos, More: more, Reached: true}, err
}

// send is one attempt. The name of a transaction is never that of another one, whatever becomes of the database.
//
// spec: application-service-api.md#put_matrixappv1transactionstxnid
func (s *Sender) send(ctx context.Context, service *Service, t *storage.ServiceTransaction) error {
	ctx, cancel := context.WithTimeout(ctx, transactionTime)
	defer cancel()
	name := s.o.DB.Epoch() + "-" + strconv.FormatInt(t.Number, 10)
	_, err := s.o.Services.ask(ctx, service, http.MethodPut, "/transactions/"+url.PathEscape(name), t.Body)
	return err
}
