package storage_test

import (
	"errors"
	"slices"
	"testing"

	"parley/internal/id"
	"parley/storage"
	"parley/storage/storagetest"
)

func TestServerKeys(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		first := storage.ServerKey{Server: "a.org", KeyID: "ed25519:1", Public: "AAA", ValidUntil: 10}
		expired := storage.ServerKey{Server: "a.org", KeyID: "ed25519:1", Public: "AAA", Expired: 7}
		second := storage.ServerKey{Server: "a.org", KeyID: "ed25519:2", Public: "BBB", ValidUntil: 20}
		other := storage.ServerKey{Server: "b.org", KeyID: "ed25519:1", Public: "CCC", ValidUntil: 30}
		for _, k := range []storage.ServerKey{first, second, other, expired} {
			if err := db.Write(t.Context(), func(tx *storage.Tx) error { return tx.InsertServerKey(&k) }); err != nil {
				t.Fatal(err)
			}
		}
		list := func(servers ...id.ServerName) []storage.ServerKey {
			keys, err := storage.Get(t.Context(), db, func(tx *storage.Tx) ([]storage.ServerKey, error) { return tx.ListServerKeys(servers) })
			if err != nil {
				t.Fatal(err)
			}
			return keys
		}
		if got, want := list("a.org", "c.org"), []storage.ServerKey{expired, second}; !slices.Equal(got, want) {
			t.Errorf("keys of a.org: %v, want %v", got, want)
		}
		if got, want := list("b.org"), []storage.ServerKey{other}; !slices.Equal(got, want) {
			t.Errorf("keys of b.org: %v, want %v", got, want)
		}
	})
}

func TestServerKeyLists(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		get := func() (storage.ServerKeyList, error) {
			return storage.Get(t.Context(), db, func(tx *storage.Tx) (storage.ServerKeyList, error) { return tx.GetServerKeyList("a.org") })
		}
		if _, err := get(); !errors.Is(err, storage.ErrNotFound) {
			t.Fatalf("before there is one: %v", err)
		}
		for _, step := range []struct {
			list storage.ServerKeyList
			want string
		}{
			{storage.ServerKeyList{Fetched: 1, ValidUntil: 10, JSON: []byte(`{"n":1}`)}, `{"n":1}`},
			{storage.ServerKeyList{Fetched: 2, ValidUntil: 20, JSON: []byte(`{"n":2}`)}, `{"n":2}`},
			{storage.ServerKeyList{Fetched: 3, ValidUntil: 15, JSON: []byte(`{"n":3}`)}, `{"n":2}`}, // an older one comes late
		} {
			step.list.Server = "a.org"
			if err := db.Write(t.Context(), func(tx *storage.Tx) error { return tx.InsertServerKeyList(&step.list) }); err != nil {
				t.Fatal(err)
			}
			if l, err := get(); err != nil || string(l.JSON) != step.want {
				t.Errorf("after %s: %s, %v", step.list.JSON, l.JSON, err)
			}
		}
	})
}
