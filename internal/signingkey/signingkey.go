// Package signingkey keeps the key that a server signs with in a file of one line:
// "ed25519 VERSION SEED", the seed in unpadded base64, as other homeservers keep theirs.
//
// It is not for other servers' keys, which are fetched and trusted for a time.
//
// spec: appendices.md#signing-details
package signingkey

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Key signs for a server.
type Key struct {
	// ID is the key's name: "ed25519:a1".
	ID      string
	Private ed25519.PrivateKey
}

// Load reads a key.
func Load(path string) (*Key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	key, err := parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", path, err)
	}
	return key, nil
}

// LoadOrMake reads a key, and makes one where there is no file yet.
func LoadOrMake(path string) (key *Key, made bool, err error) {
	key, err = Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, fmt.Errorf("signing key: %w", err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, false, fmt.Errorf("signing key: %w", err)
	}
	version := "a_" + strings.ToLower(rand.Text()[:6])
	line := "ed25519 " + version + " " + base64.RawStdEncoding.EncodeToString(private.Seed()) + "\n"
	// A key that is lost is a server that nobody believes any more: the file is whole on
	// the disk, under its name, before anything is signed with it.
	if err := writeDurably(path, line); err != nil {
		return nil, false, fmt.Errorf("signing key: %w", err)
	}
	return &Key{ID: "ed25519:" + version, Private: private}, true, nil
}

func writeDurably(path, text string) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// Link, unlike Rename, never replaces a key that another process made meanwhile.
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func parse(text string) (*Key, error) {
	fields := strings.Fields(text)
	if len(fields) != 3 || fields[0] != "ed25519" {
		return nil, errors.New(`the file must have one line: "ed25519 VERSION SEED"`)
	}
	for _, c := range fields[1] {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return nil, errors.New("the version may have letters, digits and '_' only")
		}
	}
	seed, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(fields[2], "="))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, errors.New("the seed must be 32 bytes in base64")
	}
	return &Key{ID: "ed25519:" + fields[1], Private: ed25519.NewKeyFromSeed(seed)}, nil
}
