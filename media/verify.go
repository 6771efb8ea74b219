package media

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"

	"parley/internal/id"
	"parley/media/blob"
	"parley/storage"
)

// Problem is a file whose content is not what it should be.
type Problem struct {
	Origin id.ServerName
	ID     string
	Hash   string
	// Lost content is not there; otherwise it is not what its hash says.
	Lost bool
}

// Verification is what Verify found.
type Verification struct {
	Files, Blobs int
	Bytes        int64
	Problems     []Problem
	// Unused is how many blobs belong to nothing; they are swept after a while.
	Unused int
}

// Verify looks whether the content of each file is there, and reads it to see whether it is
// what it was. Contents that several files have are read once.
func (s *Server) Verify(ctx context.Context) (*Verification, error) {
	out := &Verification{}
	state := make(map[string]bool) // of each content: whether it is good
	lost := make(map[string]bool)
	var after storage.Media
	for {
		part, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) ([]storage.Media, error) {
			return tx.ListMedia(after.Origin, after.ID, batch)
		})
		if err != nil {
			return nil, err
		}
		if len(part) == 0 {
			break
		}
		after = part[len(part)-1]
		for _, m := range part {
			if m.Hash == "" {
				continue
			}
			out.Files++
			good, known := state[m.Hash]
			if !known {
				good, err = s.check(ctx, m.Hash)
				if errors.Is(err, blob.ErrNotFound) {
					lost[m.Hash], err = true, nil
				}
				if err != nil {
					return nil, err
				}
				state[m.Hash] = good
			}
			if !good {
				out.Problems = append(out.Problems, Problem{m.Origin, m.ID, m.Hash, lost[m.Hash]})
			}
		}
	}
	err := s.o.Store.Each(ctx, func(b blob.Info) error {
		out.Blobs++
		out.Bytes += b.Size
		used, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) (bool, error) { return tx.IsContentUsed(b.Hash.String()) })
		if err == nil && !used {
			out.Unused++
		}
		return err
	})
	return out, err
}

func (s *Server) check(ctx context.Context, hash string) (good bool, err error) {
	f, err := s.open(ctx, hash)
	if err != nil {
		return false, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return false, err
	}
	return blob.Hash(sum.Sum(nil)).String() == hash, nil
}
