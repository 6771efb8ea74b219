package federation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/roomserver"
)

const (
	// maxTransaction is the size of the largest transaction in bytes: as many PDUs and EDUs as
	// one may hold, all of them as large as an event may be.
	maxTransaction = (serverapi.MaxPDUs + serverapi.MaxEDUs + 1) << 16
	// maxEntries is how many entries there may be in a transaction and its lists. The lists have bounds of
	// their own, which are looked at when they have been made; this is so that there is little to make.
	maxEntries = 1000
	// transactionTime is for how long one transaction may be worked on. It goes on when the
	// sender has lost patience, who will then ask again and be told how it went.
	transactionTime = 5 * time.Minute
	// originsRemembered bounds the servers whose last transactions are remembered, and
	// transactionsRemembered how many of each.
	originsRemembered      = 10_000
	transactionsRemembered = 4
	// maxQueued bounds the transactions of one server that wait for their turn.
	maxQueued = 8
)

func (a *API) transactionRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodPut, Path: v1 + "/send/{txnId}", Auth: httpapi.Server, Rate: httpapi.RateServer, MaxBody: maxTransaction, MaxEntries: maxEntries,
			NeedBody: true, Handler: httpapi.Handle(a.receiveTransaction)},
	}
}

type transactionRequest struct {
	TxnID       string                `path:"txnId"`
	Transaction serverapi.Transaction `body:"json"`
}

// spec: server-server-api.md#put_matrixfederationv1sendtxnid
func (a *API) receiveTransaction(ctx context.Context, r *httpapi.Request, in *transactionRequest) (*serverapi.TransactionResult, error) {
	t := &in.Transaction
	switch {
	case len(t.PDUs) > serverapi.MaxPDUs || len(t.EDUs) > serverapi.MaxEDUs:
		return nil, matrixerr.New(matrixerr.InvalidParam, "A transaction has at most %d PDUs and %d EDUs.", serverapi.MaxPDUs, serverapi.MaxEDUs)
	case t.Origin != "" && t.Origin != r.Origin:
		return nil, matrixerr.New(matrixerr.Forbidden, "The transaction's origin is not who signed the request.")
	}
	a.heard(r.Origin)
	return a.transactions.once(ctx, r.Origin, in.TxnID, func(ctx context.Context) (*serverapi.TransactionResult, error) {
		return a.takeTransaction(ctx, r.Origin, t)
	})
}

func (a *API) takeTransaction(ctx context.Context, origin id.ServerName, t *serverapi.Transaction) (*serverapi.TransactionResult, error) {
	// Keys first, so that whoever gets a message can read it; what speaks of events, after them.
	if err := a.takeEDUs(ctx, origin, t.EDUs, true); err != nil {
		return nil, err
	}
	taken, err := a.rooms.Take(ctx, origin, t.PDUs)
	if err != nil {
		return nil, err
	}
	out := &serverapi.TransactionResult{PDUs: make(map[id.EventID]serverapi.PDUResult, len(taken))}
	for _, e := range taken {
		result, text := outcome(e.Err)
		a.metrics.pdus.WithLabelValues(result).Inc()
		if e.Event != "" {
			out.PDUs[e.Event] = serverapi.PDUResult{Error: text}
		}
	}
	return out, a.takeEDUs(ctx, origin, t.EDUs, false)
}

// outcome is what became of a PDU, for figures and for its sender.
func outcome(err error) (result, text string) {
	var missing *roomserver.MissingError
	var refused *matrixerr.Error
	switch {
	case err == nil:
		return "accepted", ""
	case errors.As(err, &missing):
		return "missing", "Events that this one follows could not be had."
	case errors.As(err, &refused):
		return "refused", refused.Message
	default:
		return "rejected", "The event is not allowed where it stands."
	}
}

// aboutKeys are the EDUs without which messages can't be read.
var aboutKeys = map[string]bool{"m.direct_to_device": true, "m.device_list_update": true, "m.signing_key_update": true}

// takeEDUs hands on those EDUs that are about keys, or all others. What is wrong with one is
// its sender's business; an error is one of ours.
func (a *API) takeEDUs(ctx context.Context, origin id.ServerName, edus []serverapi.EDU, keys bool) error {
	for _, edu := range edus {
		if aboutKeys[edu.Type] != keys {
			continue
		}
		err := a.receiveEDU(ctx, origin, edu)
		result := "accepted"
		var refused *matrixerr.Error
		if errors.As(err, &refused) {
			a.log.InfoContext(ctx, "an EDU was refused", "type", fmt.Sprintf("%.100s", edu.Type), "origin", origin, "reason", err)
			result, err = "refused", nil
		}
		if err != nil {
			return err
		}
		a.metrics.edus.WithLabelValues(result).Inc()
	}
	return nil
}

// transactions has each server's transactions worked on once, and one after the other.
//
// It remembers in memory what became of the last ones. That is enough: after a restart an event
// that comes again is known, and a message to a device has an ID of its own.
type transactions struct {
	origins *lru.Cache[id.ServerName, *turns]
}

type turns struct {
	queue chan struct{} // as many as may wait, and the one whose turn it is
	turn  sync.Mutex
	done  *lru.Cache[string, *serverapi.TransactionResult]
}

func newTransactions() (*transactions, error) {
	origins, err := lru.New[id.ServerName, *turns](originsRemembered)
	return &transactions{origins}, err
}

// once calls fn unless it was called for this transaction before, and gives what it gave.
func (t *transactions) once(ctx context.Context, origin id.ServerName, txn string,
	fn func(context.Context) (*serverapi.TransactionResult, error)) (*serverapi.TransactionResult, error) {
	mine, ok := t.origins.Get(origin)
	if !ok {
		done, err := lru.New[string, *serverapi.TransactionResult](transactionsRemembered)
		if err != nil {
			return nil, err
		}
		mine = &turns{queue: make(chan struct{}, maxQueued), done: done}
		if before, ok, _ := t.origins.PeekOrAdd(origin, mine); ok {
			mine = before
		}
	}
	select {
	case mine.queue <- struct{}{}:
		defer func() { <-mine.queue }()
	default:
		return nil, matrixerr.New(matrixerr.LimitExceeded, "Too many transactions of your server are being worked on.")
	}
	mine.turn.Lock()
	defer mine.turn.Unlock()
	if result, ok := mine.done.Get(txn); ok {
		return result, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transactionTime)
	defer cancel()
	result, err := fn(ctx)
	if err == nil {
		mine.done.Add(txn, result)
	}
	return result, err
}
