package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"parley/config"
)

// signingKey is a key with which this server signs, and its ID: "ed25519:a_JXYZ".
//
// spec: appendices.md#signing-details
type signingKey struct {
	ID  string
	Key ed25519.PrivateKey
}

// signingKeys are the server's keys; it signs with the first. Where the configuration names
// none there is one in the data directory, which the first start makes.
func signingKeys(cfg *config.Config) ([]signingKey, error) {
	if len(cfg.Federation.SigningKeys) == 0 {
		file := cfg.SigningKeyFile()
		k, err := readSigningKey(file)
		if errors.Is(err, fs.ErrNotExist) {
			if err = makeSigningKey(file); err == nil {
				k, err = readSigningKey(file)
			}
		}
		return []signingKey{k}, err
	}
	var keys []signingKey
	for _, file := range cfg.Federation.SigningKeys {
		k, err := readSigningKey(string(file))
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

var keyVersion = regexp.MustCompile(`^[a-zA-Z0-9_]+$`)

// readSigningKey reads a file of one line: the algorithm, the version, and the seed in
// unpadded base64. Synapse writes such files too, so a server's key can move here.
func readSigningKey(file string) (signingKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return signingKey{}, fmt.Errorf("read the signing key: %w", err)
	}
	fields := strings.Fields(string(data))
	if len(fields) != 3 || fields[0] != "ed25519" || !keyVersion.MatchString(fields[1]) {
		return signingKey{}, fmt.Errorf("the signing key %s is not one line such as: ed25519 a_JXYZ SEED", file)
	}
	seed, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(fields[2], "="))
	if err != nil || len(seed) != ed25519.SeedSize {
		return signingKey{}, fmt.Errorf("the seed of the signing key %s is not %d bytes in base64", file, ed25519.SeedSize)
	}
	return signingKey{"ed25519:" + fields[1], ed25519.NewKeyFromSeed(seed)}, nil
}

// makeSigningKey makes the file with a new key, whole or not at all: several processes may
// start at once, and nobody can replace a key that is lost after it has signed.
func makeSigningKey(file string) error {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed) // never fails
	line := fmt.Sprintf("ed25519 a_%s %s\n", rand.Text()[:6], base64.RawStdEncoding.EncodeToString(seed))
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the signing key: %w", err)
	}
	temp, err := os.CreateTemp(dir, "signing-key-*") // only its owner may read it
	if err != nil {
		return fmt.Errorf("make the signing key: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.WriteString(line)
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return fmt.Errorf("make the signing key: %w", err)
	}
	if err := os.Link(temp.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the signing key: %w", err)
	}
	return syncDir(dir)
}

// syncDir has the names of the files in a folder survive the loss of power.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
