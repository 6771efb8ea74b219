package userserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"parley/internal/eventually"
	"parley/internal/id"
	"parley/internal/words"
	"parley/storage"
	"parley/storage/storagetest"
	"parley/userserver"
)

// person is a user as the tests' model of the directory knows them.
type person struct {
	user  id.UserID
	name  string
	rooms []int
	gone  bool
}

// openRooms is how many of the tests' rooms are open to all: the first.
const openRooms = 1

// listRooms makes the rooms of the tests.
func listRooms(t testing.TB, tx *storage.Tx, n int) []storage.Room {
	t.Helper()
	rooms := make([]storage.Room, n)
	for i := range rooms {
		room := must[storage.Room](t)(tx.InsertRoom(id.RoomID(fmt.Sprintf("!r%d:x.org", i)), "12"))
		room.Kind = &storage.RoomKind{Open: i < openRooms}
		if err := tx.UpdateRoomHead(&room); err != nil {
			t.Fatal(err)
		}
		rooms[i] = room
	}
	return rooms
}

// put has people be in their rooms.
func put(t testing.TB, tx *storage.Tx, rooms []storage.Room, people []person) {
	t.Helper()
	var none storage.EventNID
	for _, p := range people {
		content := must[[]byte](t)(json.Marshal(map[string]any{"content": map[string]string{"displayname": p.name}}))
		for _, i := range p.rooms {
			m := storage.Membership{User: p.user, Room: rooms[i].NID, Membership: "join", Event: none, Local: p.user.Server() == "x.org"}
			if !m.Local {
				e := storage.Event{ID: id.EventID(fmt.Sprint("$", p.user, i)), Room: m.Room, JSON: content}
				if err := tx.InsertEvent(&e); err != nil {
					t.Fatal(err)
				}
				m.Event, m.Phrases = e.NID, words.Phrases(p.user, p.name)
			}
			if err := tx.InsertMembership(&m); err != nil {
				t.Fatal(err)
			}
			rooms[i].Joined++
		}
	}
	for i := range rooms {
		if err := tx.UpdateRoomHead(&rooms[i]); err != nil {
			t.Fatal(err)
		}
	}
}

// makeAccounts makes many accounts at once, as registration and a new name would.
func makeAccounts(t testing.TB, tx *storage.Tx, people []person) {
	t.Helper()
	for _, p := range people {
		must[bool](t)(tx.InsertUser(&storage.User{ID: p.user}))
		if p.name != "" {
			if err := tx.InsertProfileField(p.user, "displayname", must[[]byte](t)(json.Marshal(p.name))); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.InsertDirectory(p.user, words.Phrases(p.user, p.name)); err != nil {
			t.Fatal(err)
		}
	}
}

// finds is the model of a search: it looks at everybody.
func finds(people []person, asker *person, term string) []id.UserID {
	sought := words.Split(term)
	var out []id.UserID
	for _, p := range people {
		known := slices.ContainsFunc(p.rooms, func(r int) bool { return r < openRooms || slices.Contains(asker.rooms, r) })
		id := words.Split(string(p.user))
		own := append(words.Split(p.name), words.Split(p.user.Localpart())...)
		all, inOrder := len(sought) > 0, false
		for _, w := range sought {
			all = all && slices.ContainsFunc(own, func(s string) bool { return strings.HasPrefix(s, w) })
		}
		for i := range words.Split(p.user.Localpart()) {
			inOrder = inOrder || len(sought) > 0 && strings.HasPrefix(strings.Join(id[i:], " "), strings.Join(sought, " "))
		}
		if known && (all || inOrder) && !p.gone && p.user != asker.user {
			out = append(out, p.user)
		}
	}
	slices.Sort(out)
	return out
}

func found(users []userserver.DirectoryUser) []id.UserID {
	out := make([]id.UserID, len(users))
	for i, u := range users {
		out[i] = u.User
	}
	return out
}

// TestDirectoryModel compares searches with a model, while people get other names and leave.
func TestDirectoryModel(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		rng := rand.New(rand.NewPCG(1, 2))
		pieces := []string{"Ann", "Anna", "ANNABEL", "Lee", "lee-ann", "京子", "Öz", "x", "org", "42"}
		name := func() string {
			var out []string
			for range rng.IntN(4) {
				out = append(out, pieces[rng.IntN(len(pieces))])
			}
			return strings.Join(out, []string{" ", ".", "'"}[rng.IntN(3)])
		}
		var people []person
		for i := range 60 {
			p := person{name: name()}
			if i%2 == 0 {
				p.user = f.register(t, fmt.Sprintf("%s.%d", strings.ToLower(pieces[i%4]), i)).User
				if err := f.SetProfileField(ctx, p.user, "displayname", must[[]byte](t)(json.Marshal(p.name))); err != nil {
					t.Fatal(err)
				}
			} else {
				p.user = id.UserID(fmt.Sprintf("@%s_%d:lee.net", pieces[i%4], i))
			}
			for r := range 5 {
				if rng.IntN(4) == 0 {
					p.rooms = append(p.rooms, r)
				}
			}
			people = append(people, p)
		}
		if err := f.db.Write(ctx, func(tx *storage.Tx) error {
			put(t, tx, listRooms(t, tx, 5), people)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		terms := append([]string{"a", "AN", "an le", "le an", "子", "京子", "oz", "öZ", "@ann.0:x.org", "lee.net", "ann 13 lee.n", "13:lee", "4", "x x x x x x x x x x x"}, pieces...)
		for round := range 4 {
			for _, term := range append(terms, name(), name()) {
				asker := &people[rng.IntN(30)*2]
				got, limited, err := f.SearchUsers(ctx, asker.user, term, 1000)
				if err != nil {
					t.Fatal(err)
				}
				want := finds(people, asker, term)
				sorted := found(got)
				slices.Sort(sorted)
				if !slices.Equal(sorted, want) || limited {
					t.Fatalf("round %d: %s finds by %q %v, limited %v; want %v", round, asker.user, term, sorted, limited, want)
				}
				some, limited, err := f.SearchUsers(ctx, asker.user, term, 3)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(some, got[:min(3, len(got))]) || limited != (len(got) > 3) {
					t.Fatalf("round %d: by %q the first 3 are %v, limited %v, of %v", round, term, some, limited, got)
				}
			}
			for range 8 {
				p := &people[rng.IntN(30)*2]
				p.name = name()
				if p.gone {
					continue
				}
				if err := f.SetProfileField(ctx, p.user, "displayname", must[[]byte](t)(json.Marshal(p.name))); err != nil {
					t.Fatal(err)
				}
			}
			p := &people[rng.IntN(30)*2]
			if _, err := f.Deactivate(ctx, p.user, false); err != nil {
				t.Fatal(err)
			}
			p.gone = true
		}
	})
}

// TestDirectoryOrder has the best first.
func TestDirectoryOrder(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		names := map[string]string{"e": "Mary Ann", "d": "", "ann": "", "a": "Annabel", "b": "Ann Lee", "c": "Ann", "ann2": "", "ask": ""}
		var people []person
		for _, local := range slices.Sorted(maps.Keys(names)) {
			people = append(people, person{user: id.NewUserID(local, "x.org"), name: names[local], rooms: []int{0}})
		}
		if err := f.db.Write(ctx, func(tx *storage.Tx) error {
			makeAccounts(t, tx, people)
			put(t, tx, listRooms(t, tx, 1), people)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		got, _, err := f.SearchUsers(ctx, "@ask:x.org", " ANN ", 10)
		want := []id.UserID{"@c:x.org", "@ann:x.org", "@a:x.org", "@b:x.org", "@ann2:x.org", "@e:x.org"}
		if err != nil || !slices.Equal(found(got), want) {
			t.Errorf("found %v, %v; want %v", found(got), err, want)
		}
	})
}

// TestDirectoryBounds has so many of one name that not all are looked at: neighbours are found, and who has the
// words in that order.
func TestDirectoryBounds(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		known := []person{
			{user: "@asker:x.org", rooms: []int{1, 2}},
			{user: "@z1:x.org", name: "Johnny Z", rooms: []int{1}},
			{user: "@z2:y.org", name: "Johnny Z", rooms: []int{2}},
			{user: "@z3:x.org", name: "John", rooms: []int{3}},
		}
		if err := f.db.Write(ctx, func(tx *storage.Tx) error {
			for i := range 2500 { // of other rooms
				user := id.UserID(fmt.Sprintf("@john%d:y.org", i))
				if err := tx.InsertDirectory(user, words.Phrases(user, "")); err != nil {
					return err
				}
			}
			makeAccounts(t, tx, known[:2])
			makeAccounts(t, tx, known[3:])
			put(t, tx, listRooms(t, tx, 4), known)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, term := range []string{"j", "johnny", "john z"} {
			got, limited, err := f.SearchUsers(ctx, "@asker:x.org", term, 10)
			want := []id.UserID{"@z1:x.org", "@z2:y.org"}
			if err != nil || !slices.Equal(found(got), want) || limited != (term == "j") {
				t.Errorf("by %q are found %v, limited %v, %v; want %v", term, found(got), limited, err, want)
			}
		}
	})
}

// TestDirectoryFill takes in users from before there was a directory.
func TestDirectoryFill(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		ctx := context.Background()
		db := storagetest.Open(t, url, nil)
		people := []person{
			{user: "@asker:x.org", name: "Ask", rooms: []int{1}},
			{user: "@ann:x.org", name: "Änn", rooms: []int{1}},
			{user: "@bob:y.org", name: "Änn", rooms: []int{1}},
		}
		if err := db.Write(ctx, func(tx *storage.Tx) error {
			makeAccounts(t, tx, people[:2])
			put(t, tx, listRooms(t, tx, 2), people)
			if _, err := tx.Exec(`DELETE FROM directory`); err != nil {
				return err
			}
			_, err := tx.Exec(`INSERT INTO directory_pending (user_id) VALUES ('@asker:x.org'), ('@ann:x.org'), ('@bob:y.org'), ('@none:x.org')`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		s := userserver.New(userserver.Options{DB: db, ServerName: "x.org", Rooms: &rooms{}})
		defer s.Close()
		eventually.True(t, "both are found", func() bool {
			got, _, err := s.SearchUsers(ctx, "@asker:x.org", "änn", 10)
			return err == nil && len(got) == 2
		})
	})
}

// BenchmarkDirectory searches among 100,000 users who have two names each of 500, of whom 20,000 are in a room with the one
// who asks, and 200 in a small one.
func BenchmarkDirectory(b *testing.B) {
	for _, kind := range []string{"sqlite", "postgres"} {
		b.Run(kind, func(b *testing.B) {
			url := filepath.Join(b.TempDir(), "parley.db")
			if kind == "postgres" {
				url = storagetest.Postgres(b)
			}
			benchmarkDirectory(b, newFixture(b, url))
		})
	}
}

func benchmarkDirectory(b *testing.B, f *fixture) {
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(1, 2))
	names := make([]string, 500)
	for i := range names {
		for range 3 + rng.IntN(5) {
			names[i] += string(rune('a' + rng.IntN(26)))
		}
	}
	people := make([]person, 100_000)
	for i := range people {
		people[i] = person{user: id.UserID(fmt.Sprintf("@%s%d:x.org", names[rng.IntN(500)], i)), name: names[rng.IntN(500)] + " " + names[rng.IntN(500)]}
		if i < 20_000 {
			people[i].rooms = append(people[i].rooms, 1)
		}
		if i%500 == 0 {
			people[i].rooms = append(people[i].rooms, 2)
		}
	}
	var all []storage.Room
	if err := f.db.Write(ctx, func(tx *storage.Tx) error {
		all = listRooms(b, tx, 4)
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	for batch := range slices.Chunk(people, 5000) {
		if err := f.db.Write(ctx, func(tx *storage.Tx) error {
			makeAccounts(b, tx, batch)
			put(b, tx, all, batch)
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	lonely := f.register(b, "lonely").User
	for _, asker := range []struct {
		who  string
		user id.UserID
	}{{"one of them", people[0].user}, {"one who is in no room", lonely}} {
		for _, term := range []string{people[7777].name, names[3], names[4][:2], names[5][:1], string(people[9999].user), names[1][:1] + " " + names[2][:1]} {
			b.Run(fmt.Sprintf("%s: %q", asker.who, term), func(b *testing.B) {
				n := 0
				for b.Loop() {
					got, _, err := f.SearchUsers(ctx, asker.user, term, 10)
					if err != nil {
						b.Fatal(err)
					}
					n = len(got)
				}
				b.ReportMetric(float64(n), "found")
			})
		}
	}
}
