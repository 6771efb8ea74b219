package federation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/roomserver"
)

func TestOnce(t *testing.T) {
	ts, err := newTransactions()
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	var calls, running atomic.Int32
	work := func(context.Context) (*serverapi.TransactionResult, error) {
		if running.Add(1) > 1 {
			t.Error("two transactions of one server at once")
		}
		defer running.Add(-1)
		calls.Add(1)
		return &serverapi.TransactionResult{}, nil
	}
	// The same one several times over at once is worked on once.
	var wg sync.WaitGroup
	for range maxQueued {
		wg.Go(func() {
			if _, err := ts.once(ctx, "a", "1", work); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if calls.Load() != 1 {
		t.Errorf("worked on %d times", calls.Load())
	}
	// What failed is tried again, and who has gone away is no reason to stop.
	gone, cancel := context.WithCancel(ctx)
	cancel()
	fault := errors.New("fault")
	if _, err := ts.once(gone, "a", "2", func(ctx context.Context) (*serverapi.TransactionResult, error) {
		return nil, errors.Join(fault, ctx.Err())
	}); err == nil || err.Error() != fault.Error() {
		t.Errorf("%v", err)
	}
	if _, err := ts.once(ctx, "a", "2", work); err != nil || calls.Load() != 2 {
		t.Errorf("%v, %d calls", err, calls.Load())
	}
	// A server that sends more than it waits for is told so; another is not.
	hold, holding := make(chan struct{}), make(chan struct{}, maxQueued)
	for i := range maxQueued {
		wg.Go(func() {
			holding <- struct{}{}
			_, err := ts.once(ctx, "b", fmt.Sprint(i), func(context.Context) (*serverapi.TransactionResult, error) {
				<-hold
				return &serverapi.TransactionResult{}, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	b, _ := ts.origins.Get("b")
	for b == nil || len(b.queue) < maxQueued {
		b, _ = ts.origins.Get("b")
	}
	if _, err := ts.once(ctx, "b", "more", work); matrixerr.CodeOf(err) != matrixerr.LimitExceeded {
		t.Errorf("%v", err)
	}
	if _, err := ts.once(ctx, "c", "1", work); err != nil {
		t.Error(err)
	}
	close(hold)
	wg.Wait()
}

func TestOutcome(t *testing.T) {
	for _, c := range []struct {
		err          error
		result, text string
	}{
		{nil, "accepted", ""},
		{roomserver.ErrRejected, "rejected", "The event is not allowed where it stands."},
		{&roomserver.MissingError{}, "missing", "Events that this one follows could not be had."},
		{fmt.Errorf("x: %w", matrixerr.New(matrixerr.Forbidden, "No.")), "refused", "No."},
	} {
		if result, text := outcome(c.err); result != c.result || text != c.text {
			t.Errorf("%v: %q, %q", c.err, result, text)
		}
	}
}
