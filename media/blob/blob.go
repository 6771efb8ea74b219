// Package blob keeps the bytes of files, each under the hash of its content, so that the same
// content is kept once. It knows nothing of who uploaded what, and when a blob may go: that is
// media's business, and in the database.
package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

// Hash is the SHA-256 of a blob's content, which is its name.
type Hash [sha256.Size]byte

// String is the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// ParseHash reads what String writes.
func ParseHash(s string) (h Hash, err error) {
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("%q is not the hash of a blob", s)
	}
	_, err = hex.Decode(h[:], []byte(s))
	return h, err
}

// ErrNotFound says that there is no such blob.
var ErrNotFound = errors.New("there is no such blob")

// Info is what is known of a blob without reading it.
type Info struct {
	Hash Hash
	Size int64
	// Stored is when its content was last stored, which may have been more than once.
	Stored time.Time
}

// Blob is a blob that is open to be read.
type Blob interface {
	io.ReadSeekCloser
	// Size is in bytes.
	Size() int64
}

// Writer takes in content of which the hash is not known yet. Nothing of it is to be seen
// before Commit.
type Writer interface {
	io.Writer
	// Commit makes the content a blob, which is durable when it returns.
	Commit(ctx context.Context) (Info, error)
	// Abort throws the content away. After Commit it does nothing.
	Abort()
}

// Store is a place for blobs. Its methods may be called concurrently.
type Store interface {
	// Create begins a new blob.
	Create(ctx context.Context) (Writer, error)
	// Open gives a blob to read, or ErrNotFound.
	Open(ctx context.Context, h Hash) (Blob, error)
	// Stat is what is known of a blob, or ErrNotFound.
	Stat(ctx context.Context, h Hash) (Info, error)
	// Delete removes a blob; that there is none is no error.
	Delete(ctx context.Context, h Hash) error
	// Each calls fn with all blobs, in no order, until it returns an error.
	Each(ctx context.Context, fn func(Info) error) error
}
