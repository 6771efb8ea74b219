package keyring

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"parley/internal/id"
	"parley/internal/signedjson"
)

// maxKeys bounds the keys of one server, those that it no longer signs with among them.
const maxKeys = 100

// Key is a key with which a server signs, or did.
type Key struct {
	Public ed25519.PublicKey
	// ValidUntil is for how long the server has said that it is its key, in milliseconds.
	ValidUntil int64
	// Expired is when the server stopped to sign with it, and 0 for one with which it still signs.
	Expired int64
}

// equal says whether two keys are the same, however long they are good for.
func (k Key) equal(other Key) bool { return k.Public.Equal(other.Public) && k.Expired == other.Expired }

// List is what a server says of its keys, and has signed.
type List struct {
	Server     id.ServerName
	ValidUntil int64
	Keys       map[string]Key
	// JSON is the list as it came.
	JSON json.RawMessage
}

// listNames are the names of what is read of a list. What passes for one server's here must not be
// read as another's by those for whom we are a notary.
var listNames = []string{"server_name", "valid_until_ts", "verify_keys", "old_verify_keys", "signatures"}

// ErrList says that a list of keys is not one to be taken.
var ErrList = errors.New("a list of keys that can't be taken")

// ParseList reads a server's list of its keys. It is refused when it isn't signed by a key that it
// says is current, or has a wrong signature by one.
//
// spec: server-server-api.md#publishing-keys
func ParseList(text []byte, server id.ServerName) (*List, error) {
	l, err := parseList(text, server)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrList, server, err)
	}
	return l, nil
}

func parseList(text []byte, server id.ServerName) (*List, error) {
	type verifyKey struct {
		Key     string `json:"key"`
		Expired int64  `json:"expired_ts"`
	}
	var fields struct {
		Server     id.ServerName                          `json:"server_name"`
		ValidUntil int64                                  `json:"valid_until_ts"`
		Keys       map[string]verifyKey                   `json:"verify_keys"`
		OldKeys    map[string]verifyKey                   `json:"old_verify_keys"`
		Signatures map[id.ServerName]map[string]signature `json:"signatures"`
	}
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("it is not the JSON that it should be: %w", err)
	}
	switch {
	case signedjson.Lookalikes(text, listNames):
		return nil, errors.New("it has names that could be read as others")
	case fields.Server != server:
		return nil, fmt.Errorf("it is that of %.100q", fields.Server)
	case len(fields.Keys)+len(fields.OldKeys) > maxKeys:
		return nil, fmt.Errorf("it has more than %d keys", maxKeys)
	case fields.ValidUntil <= 0:
		return nil, errors.New("it does not say until when it is valid")
	}
	l := &List{Server: server, ValidUntil: fields.ValidUntil, Keys: make(map[string]Key), JSON: text}
	for name, k := range fields.OldKeys {
		public, err := parseKey(name, k.Key)
		switch {
		case errors.Is(err, errAlgorithm):
			continue
		case err != nil:
			return nil, err
		case k.Expired <= 0:
			return nil, fmt.Errorf("the old key %.100q does not say until when it was used", name)
		}
		l.Keys[name] = Key{Public: public, Expired: k.Expired}
	}
	signed, err := signedjson.Signed(text)
	if err != nil {
		return nil, err
	}
	verified := false
	for name, k := range fields.Keys {
		public, err := parseKey(name, k.Key)
		switch {
		case errors.Is(err, errAlgorithm):
			continue
		case err != nil:
			return nil, err
		}
		l.Keys[name] = Key{Public: public, ValidUntil: fields.ValidUntil}
		if s, ok := fields.Signatures[server][name]; ok {
			if !s.of(public, signed) {
				return nil, fmt.Errorf("its signature by %.100q is wrong", name)
			}
			verified = true
		}
	}
	if !verified {
		return nil, errors.New("none of its keys has signed it")
	}
	return l, nil
}

// errAlgorithm says that a key is for something that we don't know.
var errAlgorithm = errors.New("it is not an ed25519 key")

func parseKey(name, key string) (ed25519.PublicKey, error) {
	if version, ok := strings.CutPrefix(name, "ed25519:"); !ok {
		return nil, errAlgorithm
	} else if version == "" || len(name) > id.MaxLength {
		return nil, fmt.Errorf("%.100q is not the name of a key", name)
	}
	public, err := decodeBase64(key)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("the key %.100q is not an ed25519 key", name)
	}
	return public, nil
}

// decodeBase64 reads unpadded base64; what is padded was always understood, too.
func decodeBase64(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}

// signature is one in base64.
type signature string

func (s signature) of(public ed25519.PublicKey, signed []byte) bool {
	raw, err := decodeBase64(string(s))
	return err == nil && len(raw) == ed25519.SignatureSize && ed25519.Verify(public, signed, raw)
}
