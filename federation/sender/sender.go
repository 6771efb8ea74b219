// Package sender is what leaves the node for other servers by itself: events of our users to
// the servers in their rooms, with messages to devices, changes of devices, and who types, is
// there and has read what. When to send, and when to try again, is internal/delivery's
// business; this package says whom the log concerns, and makes the transactions.
//
// What must not be lost is read from the log and from storage's queue each time: events,
// messages to devices, changes of devices. What is soon old is in memory: typing, presence and
// receipts, of which a server gets the newest, and none while it can't be reached.
//
// A server that was away for long gets the newest events of each room instead of all that it
// missed: from them it finds its way to the others, as far as anybody there wants to see them.
//
// spec: server-server-api.md#transactions
package sender

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/internal/delivery"
	"parley/internal/id"
	"parley/internal/serverapi"
	"parley/internal/stream"
	"parley/storage"
)

// Remote sends what was made.
type Remote interface {
	SendTransaction(ctx context.Context, server id.ServerName, txnID string, txn *serverapi.Transaction) (*serverapi.TransactionResult, error)
}

// Rooms says who may take part in a room.
type Rooms interface {
	ServerAllowed(ctx context.Context, room id.RoomID, server id.ServerName) (bool, error)
	// Horizon is the time up to which the messages of a room are due to leave: these are not sent any more. 0 is for none.
	Horizon(tx *storage.Tx, room *storage.Room) (int64, error)
}

// Users knows what other servers may see of our users.
type Users interface {
	// PublicKeys are the keys of users of ours as any other user may see them.
	PublicKeys(ctx context.Context, users []id.UserID) (*serverapi.Keys, error)
}

// Options is what a sender needs. DB, ServerName, Remote, Rooms, Users and Broker must be
// given; the rest has defaults.
type Options struct {
	DB         *storage.DB
	ServerName id.ServerName
	Remote     Remote
	Rooms      Rooms
	Users      Users
	Broker     *stream.Broker
	// Allowed says which servers we have to do with at all; nil means with all.
	Allowed func(id.ServerName) bool
	// Presence is a user's presence; nil where there is none.
	Presence func(id.UserID) Presence
	// After a failure a server is left alone for MinDelay, twice that after the next, and so on
	// up to MaxDelay.
	MinDelay, MaxDelay time.Duration
	// PassingEvery is the shortest time between two transactions that are sent to a server only for
	// typing, presence and receipts; what comes in between goes together. 0 means half a second.
	PassingEvery time.Duration
	// Shared says that other processes have the same database.
	Shared  bool
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Sender sends to other servers.
type Sender struct {
	o       Options
	queue   *delivery.Queue
	servers *servers
	passing *passing
	metrics *metrics
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// noticesKept is how many notices may wait to be gone through.
const noticesKept = 4096

// New starts to send; Close ends it.
func New(o Options) (*Sender, error) {
	if o.DB == nil || o.ServerName == "" || o.Remote == nil || o.Rooms == nil || o.Users == nil || o.Broker == nil {
		return nil, errors.New("sender: database, name, remote, rooms, users and broker must be given")
	}
	if o.Allowed == nil {
		o.Allowed = func(id.ServerName) bool { return true }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.PassingEvery == 0 {
		o.PassingEvery = 500 * time.Millisecond
	}
	s := &Sender{o: o, passing: newPassing()}
	var err error
	if s.servers, err = newServers(); err != nil {
		return nil, err
	}
	if s.metrics, err = newMetrics(o.Metrics, s.passing.count); err != nil {
		return nil, err
	}
	// Notices from before the queue runs are in the log that it reads first.
	notices := o.Broker.Subscribe(noticesKept, stream.Event, stream.ToDevice, stream.DeviceList, stream.Device,
		stream.Typing, stream.Presence, stream.Receipt)
	s.queue, err = delivery.New(delivery.Options{
		DB: o.DB, Name: "federation", Consumer: s, Whole: true, MinDelay: o.MinDelay, MaxDelay: o.MaxDelay, Shared: o.Shared,
		Log: o.Log, Metrics: o.Metrics,
	})
	if err != nil {
		notices.Close()
		return nil, err
	}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	s.done.Go(func() {
		defer notices.Close()
		s.listen(ctx, notices)
	})
	s.done.Go(func() { s.passOn(ctx) })
	return s, nil
}

// Close ends what is being sent. What was not taken is sent after the next start.
func (s *Sender) Close() {
	s.stop()
	s.done.Wait()
	s.queue.Close()
}

// Heard says that another server was heard from: if it could not be reached, it may be worth
// trying again.
func (s *Sender) Heard(server id.ServerName) { s.queue.Heard(string(server)) }

// listen goes through notices until ctx is done.
func (s *Sender) listen(ctx context.Context, notices *stream.Subscription) {
	notices.Each(ctx, func(n *stream.Notice) {
		if err := s.hear(ctx, n); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("cannot see to a notice", "kind", n.Kind, "room", n.Room, "error", err)
		}
	}, func() {
		s.servers.purge()
		s.queue.Reread()
	})
}

// hear goes through one notice.
func (s *Sender) hear(ctx context.Context, n *stream.Notice) error {
	ours := n.User.Server() == s.o.ServerName
	switch n.Kind {
	case stream.Event:
		if len(n.Users) > 0 {
			s.servers.forget(n.Room)
		}
		s.queue.Advance(n.Pos, n.Away)
		if len(n.Joined) > 0 {
			return s.greet(ctx, n)
		}
	case stream.ToDevice:
		s.queue.Advance(n.Pos, n.Away)
	case stream.DeviceList, stream.Device:
		s.queue.Advance(n.Pos, ours)
	case stream.Typing:
		if ours {
			return s.hearTyping(ctx, n)
		}
	case stream.Presence:
		if ours {
			return s.hearPresence(ctx, n)
		}
	case stream.Receipt:
		s.queue.Advance(n.Pos, false)
		if ours && len(n.Users) == 0 { // a private one is for its user alone
			return s.hearReceipt(ctx, n)
		}
	}
	return nil
}

// raw encodes what can't fail to be encoded.
func raw(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return text
}
