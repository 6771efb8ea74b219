package roomserver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"

	"parley/internal/id"
	"parley/roomserver/rules"
	"parley/roomserver/state"
	"parley/storage"
	"parley/storage/storagetest"
)

// benchMembers is the size of the room: PARLEY_BENCH_MEMBERS, or 100,000.
func benchMembers(b *testing.B) int {
	if s := os.Getenv("PARLEY_BENCH_MEMBERS"); s != "" {
		n, err := strconv.Atoi(s)
		ok(b, err)
		return n
	}
	return 100_000
}

func member(i int) id.UserID { return id.UserID(fmt.Sprintf("@member%d:test", i)) }

// bigRoom makes a room with so many members, the first ten of them moderators.
func bigRoom(b *testing.B, s *Server, version id.RoomVersion, members int) storage.Room {
	b.Helper()
	ctx := context.Background()
	room := s.mustCreate(b, CreateRequest{Preset: "public_chat", Version: version})
	users := `{"@alice:test":100`
	if version == "12" {
		users = `{"@nobody:test":50`
	}
	for i := range 10 {
		users += fmt.Sprintf(`,%q:50`, member(i))
	}
	head := s.branch(b, s.head(b, room), stateDraft(alice, "m.room.power_levels", "", `{"users":`+users+`}}`))
	for i := 0; i < members; {
		n := min(1000, members-i)
		ok(b, s.db.Write(ctx, func(tx *storage.Tx) error {
			w := &work{tx: tx, room: head}
			var entries []state.Entry
			for j := range n {
				d := stateDraft(member(i+j), "m.room.member", string(member(i+j)), `{"membership":"join"}`)
				d.Room, d.TS = room, int64(1_700_000_000_000+i+j)
				set, err := s.authFor(tx, &w.room, w.room.Root, &d)
				if err != nil {
					return err
				}
				auth, err := s.authLinks(&w.room, set)
				if err != nil {
					return err
				}
				prev, err := s.prevLinks(w)
				if err != nil {
					return err
				}
				e, err := s.build(&w.room, &d, prev, auth, w.room.Depth+1)
				if err != nil {
					return err
				}
				e.Room, e.Root = w.room.NID, w.room.Root
				if err := s.insert(tx, e); err != nil {
					return err
				}
				entries = append(entries, state.Entry{Key: e.key(), NID: e.nid()})
				w.room.Extremities = []storage.Extremity{{NID: e.NID, ID: e.ID}}
				w.room.Depth++
			}
			root, err := s.tree.Set(tx, state.Root(w.room.Root), entries)
			if err != nil {
				return err
			}
			w.room.Root, w.room.Joined = int64(root), int64(i+n)
			head = w.room
			return tx.UpdateRoomHead(&w.room)
		}))
		i += n
	}
	return head
}

// fork adds two branches that disagree at so many keys: a fifth of them members' own, the
// others set by two moderators. It returns their heads.
func (s *Server) fork(b *testing.B, head storage.Room, round, keys int) [2]storage.Room {
	var heads [2]storage.Room
	for side := range heads {
		var drafts []draft
		for k := range keys {
			if k < keys/5 {
				user := member(20 + (round*keys/5+k)%(int(head.Joined)-20))
				drafts = append(drafts, stateDraft(user, "m.room.member", string(user), fmt.Sprintf(`{"displayname":"%d.%d","membership":"join"}`, round, side)))
			} else {
				drafts = append(drafts, stateDraft(member(side), "org.example.state", fmt.Sprint(k), fmt.Sprintf(`{"round":%d,"side":%d}`, round, side)))
			}
		}
		heads[side] = s.branch(b, head, drafts...)
	}
	return heads
}

// timeResolve resolves two heads, and says how long it took but for the commit, and what
// they come to.
func (s *Server) timeResolve(b *testing.B, heads [2]storage.Room) (time.Duration, storage.Room) {
	b.Helper()
	var took time.Duration
	merged := heads[0]
	merged.Extremities = append(merged.Extremities[:1:1], heads[1].Extremities...)
	ok(b, s.db.Write(context.Background(), func(tx *storage.Tx) (err error) {
		start := time.Now()
		merged.Root, err = s.resolve(tx, &merged, []int64{heads[0].Root, heads[1].Root})
		took = time.Since(start)
		return err
	}))
	return took, merged
}

func databaseBytes(b *testing.B, db *storage.DB) int64 {
	b.Helper()
	var n int64
	ok(b, db.Read(context.Background(), func(tx *storage.Tx) error {
		if tx.Dialect().String() == "postgres" {
			return tx.QueryRow(`SELECT pg_database_size(current_database())`, nil, &n)
		}
		return tx.QueryRow(`SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()`, nil, &n)
	}))
	return n
}

// peakMemory is the most memory that the process has had, in MB.
func peakMemory() float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024
		}
	}
	return 0
}

// BenchmarkResolve measures a room of 100,000 members on both databases, in one go, whatever
// b.N: forks with 50 conflicted keys, 1,000 small forks in a row, what a change of state and
// a message cost the database, and the most memory that the process has had so far.
func BenchmarkResolve(b *testing.B) {
	for _, version := range []id.RoomVersion{"11", "12"} {
		b.Run("sqlite/version="+string(version), func(b *testing.B) {
			benchResolve(b, filepath.Join(b.TempDir(), "parley.db"), version)
		})
		b.Run("postgres/version="+string(version), func(b *testing.B) {
			benchResolve(b, storagetest.Postgres(b), version)
		})
	}
}

func benchResolve(b *testing.B, url string, version id.RoomVersion) {
	const keys = 50
	db := storagetest.Open(b, url, nil)
	s := newServer(b, db)
	head := bigRoom(b, s, version, benchMembers(b))
	b.ResetTimer()

	var warm time.Duration
	const rounds = 10
	for round := range rounds {
		heads := s.fork(b, head, round, keys)
		took, merged := s.timeResolve(b, heads)
		warm += took
		head = merged
	}
	b.ReportMetric(float64(warm.Microseconds())/1000/rounds, "warm-ms")

	heads := s.fork(b, head, rounds, keys)
	cold := newServer(b, storagetest.Open(b, url, nil))
	took, _ := cold.timeResolve(b, heads)
	b.ReportMetric(float64(took.Microseconds())/1000, "cold-ms")
	_, head = s.timeResolve(b, heads)

	var many time.Duration
	for round := range 1000 {
		heads := s.fork(b, head, 100+round, 2)
		took, merged := s.timeResolve(b, heads)
		many += took
		head = merged
	}
	b.ReportMetric(many.Seconds(), "1000-forks-s")

	perEvent := func(n int, d func(i int) draft) float64 {
		before := databaseBytes(b, db)
		for i := range n {
			head = s.branch(b, head, d(i))
		}
		return float64(databaseBytes(b, db)-before) / float64(n)
	}
	b.ReportMetric(perEvent(1000, func(i int) draft {
		user := member(50 + i)
		return stateDraft(user, "m.room.member", string(user), fmt.Sprintf(`{"displayname":"again %d","membership":"join"}`, i))
	}), "B/change")
	text := strings.Repeat("x", 1000)
	b.ReportMetric(perEvent(1000, func(i int) draft {
		return draft{Sender: member(i), Type: "m.room.message", Content: []byte(`{"body":"` + text + `","msgtype":"m.text"}`)}
	}), "B/message")
	b.ReportMetric(peakMemory(), "memory-MB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkResolveLibrary puts gomatrixserverlib's resolver beside ours, in a room of a tenth
// of the members: its time grows with their square, and with 100,000 it did not end. Version
// 12 it cannot resolve.
func BenchmarkResolveLibrary(b *testing.B) {
	url := filepath.Join(b.TempDir(), "parley.db")
	s := newServer(b, storagetest.Open(b, url, nil))
	head := bigRoom(b, s, "11", benchMembers(b)/10)
	heads := s.fork(b, head, 0, 50)
	b.ResetTimer()

	cold := newServer(b, storagetest.Open(b, url, nil))
	ours, _ := cold.timeResolve(b, heads)
	b.ReportMetric(float64(ours.Microseconds())/1000, "cold-ms")
	ours, _ = s.timeResolve(b, heads)
	b.ReportMetric(float64(ours.Microseconds())/1000, "warm-ms")
	took, memory := s.timeLibrary(b, head, heads)
	b.ReportMetric(float64(took[0].Microseconds())/1000, "library-warm-ms")
	b.ReportMetric(float64(took[1].Microseconds())/1000, "library-cold-ms")
	b.ReportMetric(memory, "library-MB")
	b.ReportMetric(0, "ns/op")
}

// timeLibrary resolves two heads with gomatrixserverlib, given all events in memory, and
// with the time it takes to get them there; and says how much memory they take.
func (s *Server) timeLibrary(b *testing.B, room storage.Room, heads [2]storage.Room) (took [2]time.Duration, megabytes float64) {
	b.Helper()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	ok(b, s.db.Read(context.Background(), func(tx *storage.Tx) error {
		start := time.Now()
		var sets [][]gomatrixserverlib.PDU
		all := make(map[id.EventID]gomatrixserverlib.PDU)
		load := func(rows []storage.Event) (pdus []gomatrixserverlib.PDU, err error) {
			for _, row := range rows {
				if all[row.ID] == nil {
					e, err := parseEvent(room.Version, row)
					if err != nil {
						return nil, err
					}
					all[row.ID] = e.PDU
				}
				pdus = append(pdus, all[row.ID])
			}
			return pdus, nil
		}
		for _, head := range heads {
			var nids []storage.EventNID
			for e, err := range s.tree.List(tx, state.Root(head.Root)) {
				if err != nil {
					return err
				}
				nids = append(nids, storage.EventNID(e.NID))
			}
			var set []gomatrixserverlib.PDU
			for len(nids) > 0 {
				n := min(len(nids), 1000)
				rows, err := tx.ListEventsByNID(nids[:n])
				if err != nil {
					return err
				}
				pdus, err := load(rows)
				if err != nil {
					return err
				}
				set = append(set, pdus...)
				nids = nids[n:]
			}
			sets = append(sets, set)
		}
		level := make([]gomatrixserverlib.PDU, 0, len(all))
		for _, pdu := range all {
			level = append(level, pdu)
		}
		for len(level) > 0 {
			wanted := make(map[id.EventID]bool)
			for _, pdu := range level {
				for _, auth := range pdu.AuthEventIDs() {
					wanted[id.EventID(auth)] = all[id.EventID(auth)] == nil
				}
			}
			var missing []id.EventID
			for auth, is := range wanted {
				if is {
					missing = append(missing, auth)
				}
			}
			rows, err := tx.ListEvents(missing)
			if err != nil {
				return err
			}
			if level, err = load(rows); err != nil {
				return err
			}
		}
		var auth []gomatrixserverlib.PDU
		for _, pdu := range all {
			auth = append(auth, pdu)
		}
		loaded := time.Now()
		_, err := gomatrixserverlib.ResolveConflictsNew(gomatrixserverlib.RoomVersion(room.Version), sets, auth, rules.UserOf,
			func(string) bool { return false })
		took = [2]time.Duration{time.Since(loaded), time.Since(start)}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(sets)
		return err
	}))
	return took, float64(after.HeapAlloc-before.HeapAlloc) / (1 << 20)
}
