package storage_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"parley/internal/id"
	"parley/internal/stream"
	"parley/storage"
	"parley/storage/storagetest"
)

// However many ask for long, each is given snapshots of one position, and others are served meanwhile.
func TestReadLong(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		db := storagetest.Open(t, url, nil)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for ctx.Err() == nil {
					err := db.ReadLong(ctx, func(txs []*storage.Tx) error {
						if len(txs) == 0 {
							return errors.New("no snapshot")
						}
						first, err := txs[0].GetPos()
						if err != nil {
							return err
						}
						for _, tx := range txs[1:] {
							if pos, err := tx.GetPos(); err != nil || pos != first {
								return fmt.Errorf("one snapshot is of %d and another of %d: %w", first, pos, err)
							}
						}
						return nil
					})
					if err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for range 50 {
			err := db.Write(t.Context(), func(tx *storage.Tx) error {
				tx.OnPos(1, func(id.Pos) error { return nil })
				return nil
			})
			if err == nil {
				err = db.Ping(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
		}
		stop()
		wg.Wait()

		// Those that are in the middle of it leave readers to others.
		hold, held := make(chan struct{}), make(chan struct{})
		for range 20 {
			wg.Go(func() {
				err := db.ReadLong(t.Context(), func([]*storage.Tx) error {
					select {
					case held <- struct{}{}:
					case <-hold:
					}
					<-hold
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		<-held
		if err := db.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		close(hold)
		wg.Wait()
	})
}

func TestWriteGroups(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		var mu sync.Mutex
		var seen []id.Pos
		db := storagetest.Open(t, url, func(n stream.Notice) {
			mu.Lock()
			defer mu.Unlock()
			if n.Kind == stream.Opened {
				return
			}
			seen = append(seen, n.Pos)
		})
		ctx := context.Background()
		boom := errors.New("boom")
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				err := db.Write(ctx, func(tx *storage.Tx) error {
					room, err := tx.InsertRoom(id.RoomID(fmt.Sprintf("!r%d:x", i)), "12")
					if err != nil {
						return err
					}
					switch i % 10 {
					case 3: // fails after it has written
						return boom
					case 4: // is refused by the database
						_, err := tx.InsertRoom(room.ID, "12")
						return err
					case 5:
						panic("on purpose")
					}
					tx.OnPos(1, func(first id.Pos) error {
						tx.Notify(stream.Notice{Pos: first})
						return tx.InsertTimeline(room.NID, storage.Ord(first), storage.EventNID(i+1), 0)
					})
					return nil
				})
				if wantErr := i%10 >= 3 && i%10 <= 5; wantErr != (err != nil) {
					t.Errorf("write %d: %v", i, err)
				}
				if i%10 == 3 && !errors.Is(err, boom) {
					t.Errorf("write %d: %v instead of its own error", i, err)
				}
			})
		}
		wg.Wait()
		if len(seen) != 140 {
			t.Fatalf("%d notices instead of 140", len(seen))
		}
		for i, pos := range seen {
			if pos != id.Pos(i+1) {
				t.Fatalf("notice %d has position %d", i, pos)
			}
		}
		if err := db.Read(ctx, func(tx *storage.Tx) error {
			for i := range 200 {
				_, err := tx.GetRoom(id.RoomID(fmt.Sprintf("!r%d:x", i)))
				if want := i%10 < 3 || i%10 > 5; want != (err == nil) {
					t.Errorf("room %d: %v", i, err)
				}
			}
			pos, err := tx.GetPos()
			if pos != 140 {
				t.Errorf("the log is at %d instead of 140", pos)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestWriteAlone has writers wait behind a slow one: those who are alone see in the log what came before them, and
// nothing that does not.
func TestWriteAlone(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		var room storage.Room
		var wg sync.WaitGroup
		started, release := make(chan struct{}), make(chan struct{})
		add := func(tx *storage.Tx) error {
			tx.OnPos(1, func(first id.Pos) error {
				return tx.InsertTimeline(room.NID, storage.Ord(first), storage.EventNID(first), 0)
			})
			return nil
		}
		wg.Go(func() {
			var once sync.Once
			if err := db.Write(ctx, func(tx *storage.Tx) (err error) {
				once.Do(func() { close(started) })
				<-release
				room, err = tx.InsertRoom("!r:x", "12")
				return err
			}); err != nil {
				t.Error(err)
			}
		})
		<-started
		const writers = 60
		counts := make(chan [2]int, writers)
		for i := range writers {
			wg.Go(func() {
				write := db.Write
				if i%3 == 0 {
					write = db.WriteAlone
				}
				var count [2]int
				if err := write(ctx, func(tx *storage.Tx) error {
					if i%3 == 0 {
						pos, err := tx.GetPos()
						if err != nil {
							return err
						}
						rows, err := tx.ListLog(0, pos, 1000)
						if err != nil {
							return err
						}
						count = [2]int{int(pos), len(rows)}
					}
					return add(tx)
				}); err != nil {
					t.Error(err)
				}
				if i%3 == 0 {
					counts <- count
				}
			})
		}
		close(release)
		wg.Wait()
		close(counts)
		seen := make(map[int]bool)
		for c := range counts {
			if c[0] != c[1] || seen[c[0]] {
				t.Errorf("at position %d one who is alone sees %d events", c[0], c[1])
			}
			seen[c[0]] = true
		}
	})
}

func TestListArguments(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		if err := db.Write(ctx, func(tx *storage.Tx) error {
			room, err := tx.InsertRoom("!r:x", "12")
			if err != nil {
				return err
			}
			for i := range 5 {
				e := storage.Event{ID: id.EventID(fmt.Sprintf("$%d", i)), Room: room.NID, JSON: []byte(`{}`)}
				if err := tx.InsertEvent(&e); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.Read(ctx, func(tx *storage.Tx) error {
			events, err := tx.ListEvents([]id.EventID{"$1", "$3", "$'; DROP"})
			if len(events) != 2 {
				t.Errorf("found %v", events)
			}
			if _, err := tx.Exec(`DELETE FROM events`); err == nil {
				t.Error("a reader could write")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNewerSchemaIsRefused(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		db := storagetest.Open(t, url, nil)
		if err := db.Write(context.Background(), func(tx *storage.Tx) error {
			_, err := tx.Exec(`INSERT INTO schema_migrations (version, name) VALUES (9999, 'future')`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if other, err := storage.Open(context.Background(), storage.Options{URL: url}); err == nil {
			other.Close()
			t.Fatal("a newer schema was opened")
		} else {
			t.Log(err)
		}
	})
}
