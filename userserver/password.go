package userserver

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"parley/internal/matrixerr"
)

// Hashing says what it costs to try a password.
type Hashing struct {
	// Memory is what one hash takes, in KiB.
	Memory uint32
	// Passes is how often that memory is gone over.
	Passes uint32
	// AtOnce is how many hashes may be computed at the same time; the others wait.
	AtOnce int
}

// maxPassword bounds what a stranger may have us hash.
const maxPassword = 512

// hasher makes and checks password hashes. It bounds what memory and processors they take.
type hasher struct {
	Hashing
	slots chan struct{}
	// decoy is what a password is tried against when there is no account, so that the time
	// of the answer does not tell.
	decoy string
}

func newHasher(h Hashing) *hasher {
	return &hasher{Hashing: h, slots: make(chan struct{}, max(1, h.AtOnce)),
		decoy: encodeHash(h.Memory, h.Passes, make([]byte, 16), make([]byte, 32))}
}

// hash is the argon2id hash of a password, in PHC form.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt)
	key, err := h.key(ctx, password, salt, h.Memory, h.Passes)
	if err != nil {
		return "", err
	}
	return encodeHash(h.Memory, h.Passes, salt, key), nil
}

// check says whether password is what was hashed. An empty hash is no password's.
func (h *hasher) check(ctx context.Context, hash, password string) (bool, error) {
	real := hash != ""
	if !real {
		hash = h.decoy
	}
	if len(password) > maxPassword {
		return false, nil
	}
	memory, passes, salt, want, err := decodeHash(hash)
	if err != nil {
		return false, err
	}
	key, err := h.key(ctx, password, salt, memory, passes)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(key, want) == 1 && real, nil
}

func (h *hasher) key(ctx context.Context, password string, salt []byte, memory, passes uint32) ([]byte, error) {
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-h.slots }()
	return argon2.IDKey([]byte(password), salt, passes, memory, 1, 32), nil
}

func encodeHash(memory, passes uint32, salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, memory, passes,
		b64.EncodeToString(salt), b64.EncodeToString(key))
}

func decodeHash(hash string) (memory, passes uint32, salt, key []byte, err error) {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return 0, 0, nil, nil, fmt.Errorf("password hash is of an unknown kind")
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=1", &memory, &passes); err != nil || passes == 0 {
		return 0, 0, nil, nil, fmt.Errorf("password hash has parameters %q", parts[3])
	}
	if salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return 0, 0, nil, nil, fmt.Errorf("password hash has a bad salt: %w", err)
	}
	if key, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil {
		return 0, 0, nil, nil, fmt.Errorf("password hash has a bad key: %w", err)
	}
	return memory, passes, salt, key, nil
}

// ValidatePassword refuses a new password that is too short or too long.
func (s *Server) ValidatePassword(password string) error {
	switch {
	case password == "":
		return matrixerr.New(matrixerr.MissingParam, "a password is needed")
	case len(password) > maxPassword:
		return matrixerr.New(matrixerr.InvalidParam, "the password is longer than %d bytes", maxPassword)
	case utf8.RuneCountInString(password) < s.minPwd:
		return matrixerr.New(matrixerr.WeakPassword, "the password has fewer than %d characters", s.minPwd)
	}
	return nil
}
