package dag

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"parley/internal/id"
)

var update = flag.Bool("update", false, "write the expected drawings")

func stateEvent(n int, prev []int, sender, eventType, stateKey, summary string) Event {
	e := message(n, prev, sender)
	e.Type, e.StateKey, e.Summary = eventType, &stateKey, summary
	return e
}

func message(n int, prev []int, sender string) Event {
	e := Event{ID: eventID(n), Type: "m.room.message", Sender: id.UserID(sender), Depth: int64(n),
		Time: time.Date(2026, 1, 2, 3, 4, n, 0, time.UTC)}
	for _, p := range prev {
		e.Prev = append(e.Prev, eventID(p))
	}
	return e
}

func eventID(n int) id.EventID { return id.EventID(fmt.Sprintf("$%08dabcdefghijklmnop", n)) }

// forked is a small room in which much has happened.
func forked() Graph {
	events := []Event{
		stateEvent(1, []int{0}, "@alice:a", "m.room.member", "@bob:b", "join"),
		message(2, []int{1}, "@bob:b"),
		stateEvent(3, []int{2}, "@alice:a", "m.room.power_levels", "", "@bob:b 50 to 0"),
		stateEvent(4, []int{2}, "@bob:b", "m.room.topic", "", `"fish" & <chips>`),
		message(5, []int{4}, "@bob:b"),
		message(6, []int{3, 5}, "@alice:a"),
		stateEvent(7, []int{6}, "@bob:b", "m.room.name", "", "mine"),
		stateEvent(8, []int{5}, "@bob:b", "m.room.member", "@carol:c", "ban"),
		message(9, []int{6}, "@alice:a"),
	}
	events[5].Resolution = []Verdict{
		{ID: eventID(3), Text: "m.room.power_levels of @alice:a", Taken: true},
		{ID: eventID(4), Text: "m.room.topic of @bob:b", Reason: "sender is not allowed to send event. 0 < 50"},
	}
	events[6].Status = Rejected
	events[7].Status = SoftFailed
	events[8].Extremity = true
	events[3].Marked = true
	return Graph{"!room:a", events}
}

// busy is a room of random events.
func busy(n int) Graph {
	rng := rand.New(rand.NewPCG(3, uint64(n)))
	g := Graph{Room: "!busy:a"}
	tips := []int{0}
	for i := 1; i <= n; i++ {
		at := rng.IntN(len(tips))
		prev := []int{tips[at]}
		if len(tips) > 1 && rng.IntN(4) == 0 {
			prev, tips, at = tips, []int{0}, 0
		}
		e := message(i, prev, fmt.Sprintf("@user%d:server%d", rng.IntN(9), rng.IntN(3)))
		if rng.IntN(5) == 0 {
			e = stateEvent(i, prev, string(e.Sender), "m.room.member", fmt.Sprintf("@user%d:a", rng.IntN(9)), "join")
		}
		if len(prev) > 1 {
			e.Resolution = []Verdict{{ID: eventID(i - 1), Text: "m.room.member of @user1:a", Taken: true},
				{ID: eventID(i - 2), Text: "m.room.member of @user1:a", Reason: "the sender is not in the room"}}
		}
		if e.Status = Status(max(0, rng.IntN(40)-37)); e.Status == Accepted {
			if rng.IntN(12) == 0 && len(tips) < 5 {
				tips = append(tips, i)
			} else {
				tips[at] = i
			}
		}
		g.Events = append(g.Events, e)
	}
	for i := range g.Events {
		for _, tip := range tips {
			g.Events[i].Extremity = g.Events[i].Extremity || g.Events[i].ID == eventID(tip)
		}
	}
	return g
}

func TestGolden(t *testing.T) {
	for _, c := range []struct {
		file string
		draw func(io.Writer, Graph) error
		g    Graph
	}{
		{"forked.svg", SVG, forked()},
		{"forked.dot", DOT, forked()},
		{"busy30.svg", SVG, busy(30)},
		{"busy300.svg", SVG, busy(300)},
		{"empty.svg", SVG, Graph{Room: "!empty:a"}},
	} {
		t.Run(c.file, func(t *testing.T) {
			var got bytes.Buffer
			if err := c.draw(&got, c.g); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", c.file)
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s has changed: look at what -update writes", path)
			}
		})
	}
}

// TestEveryEventIsDrawn counts rows, and parses the drawing as XML.
func TestEveryEventIsDrawn(t *testing.T) {
	for _, g := range []Graph{forked(), busy(59), busy(300)} {
		l := newLayout(g)
		n := 0
		for i, r := range l.rows {
			n += 1 + r.folded
			for _, e := range r.edges {
				if e.from >= i {
					t.Errorf("row %d follows row %d", i, e.from)
				}
			}
		}
		if n != len(g.Events) {
			t.Errorf("%d events of %d are drawn", n, len(g.Events))
		}
	}
}

// TestLanes checks that no edge runs through an event that it does not lead to.
func TestLanes(t *testing.T) {
	for n := 10; n < 300; n += 7 {
		l := newLayout(busy(n))
		for i, r := range l.rows {
			for _, e := range r.edges {
				for between := e.from + 1; between < i; between++ {
					if l.rows[between].lane == e.lane {
						t.Fatalf("%d events: the edge from row %d to %d runs through row %d", n, e.from, i, between)
					}
				}
			}
		}
	}
}

func FuzzSVG(f *testing.F) {
	f.Add("m.room.topic", "a\x00b", "]]><script>", "\xff")
	f.Fuzz(func(t *testing.T, eventType, stateKey, sender, summary string) {
		e := stateEvent(1, []int{1, 2}, sender, eventType, stateKey, summary)
		e.Resolution = []Verdict{{ID: id.EventID(stateKey), Text: summary, Reason: eventType}}
		var b bytes.Buffer
		if err := SVG(&b, Graph{id.RoomID(sender), []Event{e, e}}); err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(&b); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				return
			} else if err != nil {
				t.Fatal(err)
			}
		}
	})
}
