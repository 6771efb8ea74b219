package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"parley/config"
	"parley/roomserver"
)

// An account that a command makes is there for the process that has the database open.
func TestUserCommandsBesideAServer(t *testing.T) {
	data := t.TempDir()
	cfg, err := config.Local(data, "")
	if err != nil {
		t.Fatal(err)
	}
	h, err := openHearts(t.Context(), cfg, slog.New(slog.DiscardHandler), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.close(); err != nil {
			t.Error(err)
		}
	}()
	t.Chdir(t.TempDir())
	command := func(args ...string) string {
		var stdout, stderr bytes.Buffer
		m := Main{Stdin: strings.NewReader("correct horse\n"), Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" }}
		if status := m.Run(t.Context(), append(args, "--data", data)...); status != 0 {
			t.Fatalf("parley %v: status %d: %s", args, status, stderr.String())
		}
		return stdout.String()
	}
	command("user", "create", "alice", "--password-file", "-")
	if err := h.users.CheckPassword(t.Context(), "@alice:localhost", "correct horse"); err != nil {
		t.Error(err)
	}
	command("user", "deactivate", "alice")
	if err := h.users.CheckPassword(t.Context(), "@alice:localhost", "correct horse"); err == nil {
		t.Error("the deactivated account takes its password still")
	}
	if out := command("user", "list"); !strings.Contains(out, "@alice:localhost\t") {
		t.Errorf("user list: %s", out)
	}
}

func TestRoomVersionsOfTheConfigurationAreThoseOfTheRoomServer(t *testing.T) {
	got, want := config.RoomVersions(), slices.Collect(maps.Keys(roomserver.Versions()))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("config has %v, the room server %v", got, want)
	}
}

func TestSigningKeyIsMadeOnce(t *testing.T) {
	cfg, err := config.Local(filepath.Join(t.TempDir(), "deep", "data"), "")
	if err != nil {
		t.Fatal(err)
	}
	var all [8]signingKey
	var starts sync.WaitGroup
	for i := range all {
		starts.Go(func() {
			keys, err := signingKeys(cfg)
			if err != nil || len(keys) != 1 {
				t.Errorf("%d keys, %v", len(keys), err)
				return
			}
			all[i] = keys[0]
		})
	}
	starts.Wait()
	for _, k := range all {
		if k.ID != all[0].ID || !k.Key.Equal(all[0].Key) || !strings.HasPrefix(k.ID, "ed25519:a_") {
			t.Fatalf("the keys differ: %s and %s", k.ID, all[0].ID)
		}
	}
	entries, err := os.ReadDir(string(cfg.DataDir))
	if err != nil || len(entries) != 1 || entries[0].Name() != "signing.key" {
		t.Errorf("the folder has %v, %v; want the key alone", entries, err)
	}
	if info, err := os.Stat(cfg.SigningKeyFile()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v; want that only its owner may read it", info.Mode(), err)
	}
}

func TestSigningKeyFiles(t *testing.T) {
	dir := t.TempDir()
	seed := base64.RawStdEncoding.EncodeToString(make([]byte, ed25519.SeedSize))
	for _, c := range []struct{ name, text, want string }{
		{"new", "ed25519 a_xyz " + seed + "\n", ""},
		{"padded", "ed25519 1 " + seed + "=", ""},
		{"empty", "", "is not one line"},
		{"two keys", "ed25519 a " + seed + "\ned25519 b " + seed + "\n", "is not one line"},
		{"another algorithm", "curve25519 a " + seed, "is not one line"},
		{"a version that is none", "ed25519 a:b " + seed, "is not one line"},
		{"a short seed", "ed25519 a " + seed[2:], "is not 32 bytes"},
		{"no base64", "ed25519 a *" + seed[1:], "is not 32 bytes"},
	} {
		file := filepath.Join(dir, c.name)
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := config.Default()
		cfg.Federation.SigningKeys = []config.Path{config.Path(file)}
		keys, err := signingKeys(cfg)
		switch {
		case c.want == "" && (err != nil || len(keys) != 1 || !keys[0].Key.Equal(ed25519.NewKeyFromSeed(make([]byte, 32)))):
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q in it", c.name, err, c.want)
		}
	}
	cfg := config.Default()
	cfg.Federation.SigningKeys = []config.Path{config.Path(filepath.Join(dir, "nowhere"))}
	if _, err := signingKeys(cfg); err == nil {
		t.Error("a configured key that is not there is made")
	}
}
