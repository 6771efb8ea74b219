package signingkey

import (
	"path/filepath"
	"testing"
)

func TestMadeOnceAndReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "signing.key")
	first, made, err := LoadOrMake(path)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	again, made, err := LoadOrMake(path)
	if err != nil || made {
		t.Fatal(made, err)
	}
	if again.ID != first.ID || !again.Private.Equal(first.Private) {
		t.Errorf("read back %s instead of %s", again.ID, first.ID)
	}
}

func TestParse(t *testing.T) {
	// The key of the test vectors: spec: appendices.md#cryptographic-test-vectors
	key, err := parse("ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n")
	if err != nil || key.ID != "ed25519:1" {
		t.Fatal(key, err)
	}
	for _, bad := range []string{"", "ed25519 1", "rsa 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1", "ed25519 a:b YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1", "ed25519 1 AAAA"} {
		if key, err := parse(bad); err == nil {
			t.Errorf("%q was read as %v", bad, key.ID)
		}
	}
}
