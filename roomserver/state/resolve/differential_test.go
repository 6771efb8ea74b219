package resolve

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"parley/internal/id"
)

// cases is how many resolutions a test generates: PARLEY_RESOLVE_CASES, or enough for every
// run, or fewer where the race detector makes each take long.
func cases(t *testing.T, usual int) int {
	if s := os.Getenv("PARLEY_RESOLVE_CASES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if testing.Short() || raceEnabled {
		return usual / 20
	}
	return usual
}

func difference(got, want stateMap) error {
	if maps.Equal(got, want) {
		return nil
	}
	var b strings.Builder
	for k, e := range got {
		if want[k] != e {
			fmt.Fprintf(&b, "\n  %s %q: got %d, want", k.Type, k.StateKey, e.op.ID)
			if want[k] != nil {
				fmt.Fprintf(&b, " %d", want[k].op.ID)
			} else {
				b.WriteString(" none")
			}
		}
	}
	for k, e := range want {
		if got[k] == nil {
			fmt.Fprintf(&b, "\n  %s %q: got none, want %d", k.Type, k.StateKey, e.op.ID)
		}
	}
	return errors.New("states differ:" + b.String())
}

// agrees checks a generated room at each merge, and reports the smallest room in which
// they still disagree.
func agrees(t *testing.T, version id.RoomVersion, seed uint64, check func(r *room, states []stateMap, got stateMap) error) bool {
	g, err := generate(version, seed, check)
	if err == nil {
		return true
	}
	small := shrink(g.ops, func(ops []op) bool {
		_, err := replay(version, seed, ops, check)
		return err != nil
	})
	r, smallErr := replay(version, seed, small, check)
	var b strings.Builder
	for _, o := range small {
		fmt.Fprintf(&b, "%v  %s\n", o, r.eventID(o.ID))
	}
	t.Errorf("room version %s, seed %d: %v\nfirst seen: %v\n%s", version, seed, smallErr, err, b.String())
	return false
}

// everyRoom runs a check on generated rooms, with n resolutions in all, on two cores.
func everyRoom(t *testing.T, versions []id.RoomVersion, n int, check func(r *room, states []stateMap, got stateMap) error) {
	t.Helper()
	var next, merges, failures atomic.Int64
	counted := func(r *room, states []stateMap, got stateMap) error {
		merges.Add(1)
		return check(r, states, got)
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for failures.Load() < 3 && merges.Load() < int64(n) {
				seed := next.Add(1) - 1
				if !agrees(t, versions[int(seed)%len(versions)], uint64(seed), counted) {
					failures.Add(1)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d rooms, %d resolutions", next.Load(), merges.Load())
}

// TestAgainstReference holds the resolver against the specification's text as code.
func TestAgainstReference(t *testing.T) {
	t.Parallel()
	everyRoom(t, []id.RoomVersion{"2", "12", "6", "1", "12", "11", "8"}, cases(t, 20_000), func(r *room, states []stateMap, got stateMap) error {
		return difference(got, reference{r, states}.resolve())
	})
}
