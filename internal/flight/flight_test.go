package flight_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"parley/internal/flight"
)

func TestSharedByAllWhoAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := flight.New[string, int]()
		var ran atomic.Int32
		release := make(chan struct{})
		work := func(context.Context) (int, error) {
			<-release
			return int(ran.Add(1)), nil
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if v, err := g.Do(t.Context(), "a", work); v != 1 || err != nil {
					t.Errorf("got %d, %v", v, err)
				}
			})
		}
		gone, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := g.Do(gone, "a", work); !errors.Is(err, context.Canceled) {
				t.Errorf("who has gone gets %v", err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		wg.Wait()
		if v, err := g.Do(t.Context(), "a", work); v != 2 || err != nil {
			t.Errorf("afterwards: %d, %v; want that it is done again", v, err)
		}
		g.Close()
	})
}

func TestClose(t *testing.T) {
	g := flight.New[string, int]()
	began := make(chan struct{})
	result := make(chan error)
	go func() {
		_, err := g.Do(context.Background(), "a", func(ctx context.Context) (int, error) {
			close(began)
			<-ctx.Done()
			return 0, ctx.Err()
		})
		result <- err
	}()
	<-began
	g.Close()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("what ran ended with %v", err)
	}
	if _, err := g.Do(context.Background(), "a", nil); !errors.Is(err, flight.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestPanic(t *testing.T) {
	g := flight.New[int, int]()
	defer g.Close()
	if _, err := g.Do(t.Context(), 1, func(context.Context) (int, error) { panic("on purpose") }); err == nil {
		t.Error("a panic is no error")
	}
}
