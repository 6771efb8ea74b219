package sender

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"parley/federation/remote"
	"parley/internal/delivery"
	"parley/internal/id"
	"parley/internal/serverapi"
	"parley/storage"
)

const (
	// maxStale is how many events a server may have missed until it gets the newest of each
	// room instead.
	maxStale = 1000
	// near is how long a piece of the log may be that is gone through for one server.
	near = 1000
	// maxBytes bounds the events and EDUs of a transaction, but for the first of them.
	maxBytes = 1 << 20
	// reserved is how many EDUs of a transaction are for what is soon old.
	reserved = 20
	// maxExtremities bounds the newest events of a room that a server gets which was away.
	maxExtremities = 10
)

// item is something for a server that has its place in the log; one of the three is set.
type item struct {
	pos    id.Pos
	event  *storage.Outgoing
	change *storage.DeviceChange
	queued *storage.Queued
}

// batch is a transaction in the making.
type batch struct {
	s        *Sender
	server   id.ServerName
	from, to id.Pos
	done     id.Pos
	// stale says that the newest events of rooms stand for all that the server missed.
	stale bool
	items []item
	loaded

	txn   serverapi.Transaction
	keys  []string // what the transaction has, each by a name that nothing else ever has
	taken []*storage.Queued
}

// Deliver sends a transaction of what a server has not got yet.
func (s *Sender) Deliver(ctx context.Context, destination string, from, to id.Pos) (delivery.Result, error) {
	b := &batch{s: s, server: id.ServerName(destination), from: from, to: to}
	b.txn = serverapi.Transaction{Origin: s.o.ServerName, OriginTS: time.Now().UnixMilli(), PDUs: []json.RawMessage{}}
	if err := b.gather(ctx); err != nil {
		return delivery.Result{}, err
	}
	cut, err := b.fill(ctx)
	if err != nil {
		return delivery.Result{}, err
	}
	passing, more := s.passing.take(b.server, serverapi.MaxEDUs-len(b.txn.EDUs))
	b.txn.EDUs = append(b.txn.EDUs, edus(passing)...)
	for _, n := range passing {
		b.keys = append(b.keys, "passing "+s.passing.life+" "+strconv.FormatUint(n.serial, 10))
	}
	r := delivery.Result{Done: b.done, More: more || cut && b.done <= from}
	if len(b.txn.PDUs)+len(b.txn.EDUs) > 0 {
		if err := b.send(ctx); err != nil {
			s.passing.drop(b.server)
			return r, err
		}
		r.Reached = true
	}
	return r, b.forget(ctx)
}

// send sends the transaction. Its ID follows from what is in it, so that the same content has
// the same ID however often it is sent, and other content never has.
func (b *batch) send(ctx context.Context) error {
	h := sha256.New()
	for _, k := range b.keys {
		h.Write([]byte(k))
		h.Write([]byte{0})
	}
	txnID := base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:18])
	result, err := b.s.o.Remote.SendTransaction(ctx, b.server, txnID, &b.txn)
	if err != nil {
		var status *remote.StatusError
		if errors.As(err, &status) && status.RetryAfter > 0 {
			return &restError{err, status.RetryAfter}
		}
		return err
	}
	b.s.metrics.pdus.Add(float64(len(b.txn.PDUs)))
	b.s.metrics.edus.Add(float64(len(b.txn.EDUs)))
	for event, r := range result.PDUs {
		if r.Error != "" {
			b.s.metrics.refused.Inc()
			b.s.o.Log.Info("another server would not take an event", "server", b.server, "event", event, "error", r.Error)
		}
	}
	return nil
}

// restError is the error of a server that says for how long it wants to be left alone.
type restError struct {
	error
	after time.Duration
}

// RetryAfter is for package delivery.
func (e *restError) RetryAfter() time.Duration { return e.after }

// Unwrap is the error itself.
func (e *restError) Unwrap() error { return e.error }

// forget drops what the server has got from storage's queue.
func (b *batch) forget(ctx context.Context) error {
	if len(b.taken) == 0 {
		return nil
	}
	return b.s.o.DB.Write(ctx, func(tx *storage.Tx) error {
		for _, q := range b.taken {
			if err := tx.DeleteQueued(q); err != nil {
				return err
			}
		}
		return nil
	})
}
