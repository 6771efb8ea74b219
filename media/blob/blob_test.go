package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"parley/media/blob"
)

func put(t *testing.T, s blob.Store, content []byte) blob.Info {
	t.Helper()
	w, err := s.Create(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for part := content; len(part) > 0; part = part[min(len(part), 10_000):] {
		if _, err := w.Write(part[:min(len(part), 10_000)]); err != nil {
			t.Fatal(err)
		}
	}
	info, err := w.Commit(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func readAll(t *testing.T, b blob.Blob) []byte {
	t.Helper()
	content, err := io.ReadAll(b)
	if err = errors.Join(err, b.Close()); err != nil {
		t.Error(err)
	}
	return content
}

// conform is what every store must do.
func conform(t *testing.T, s blob.Store) {
	ctx := context.Background()
	contents := [][]byte{nil, []byte("a"), bytes.Repeat([]byte("long "), 10_000)}
	for _, content := range contents {
		info := put(t, s, content)
		if info.Hash != sha256.Sum256(content) || info.Size != int64(len(content)) {
			t.Errorf("stored %+v for %d bytes", info, len(content))
		}
		b, err := s.Open(ctx, info.Hash)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, content) || b.Size() != int64(len(content)) {
			t.Errorf("read %d bytes of %d, size %d: %v", len(got), len(content), b.Size(), err)
		}
		if len(content) > 10 {
			if _, err := b.Seek(7, io.SeekStart); err != nil {
				t.Error(err)
			}
			if rest, err := io.ReadAll(b); err != nil || !bytes.Equal(rest, content[7:]) {
				t.Errorf("read %d bytes from the 7th on: %v", len(rest), err)
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	// The same content is kept once, also when it comes at the same time.
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { put(t, s, contents[2]) })
	}
	wg.Wait()
	count := 0
	if err := s.Each(ctx, func(i blob.Info) error {
		count++
		if stat, err := s.Stat(ctx, i.Hash); err != nil || stat.Size != i.Size {
			t.Errorf("%+v and %+v, %v", i, stat, err)
		}
		if time.Since(i.Stored) > time.Hour {
			t.Errorf("stored at %v", i.Stored)
		}
		return nil
	}); err != nil || count != len(contents) {
		t.Errorf("%d blobs, %v", count, err)
	}
	stop := errors.New("stop")
	if err := s.Each(ctx, func(blob.Info) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	// What is given up leaves nothing.
	w, err := s.Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("given up")); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	w.Abort()
	for _, gone := range []blob.Hash{sha256.Sum256([]byte("given up")), sha256.Sum256([]byte("never"))} {
		if _, err := s.Open(ctx, gone); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("%v", err)
		}
		if _, err := s.Stat(ctx, gone); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("%v", err)
		}
		if err := s.Delete(ctx, gone); err != nil {
			t.Error(err)
		}
	}
	for _, content := range contents {
		if err := s.Delete(ctx, sha256.Sum256(content)); err != nil {
			t.Error(err)
		}
		if _, err := s.Open(ctx, sha256.Sum256(content)); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("%v", err)
		}
	}
}

func TestDisk(t *testing.T) {
	dir := t.TempDir()
	d, err := blob.NewDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	conform(t, d)
	left, err := os.ReadDir(filepath.Join(dir, "new"))
	if err != nil || len(left) != 0 {
		t.Errorf("%d files are left, %v", len(left), err)
	}
	// What a crash left goes at the next start, when it is old.
	for name, age := range map[string]time.Duration{"upload-old": 48 * time.Hour, "upload-young": 0} {
		path := filepath.Join(dir, "new", name)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := blob.NewDisk(dir); err != nil {
		t.Fatal(err)
	}
	left, err = os.ReadDir(filepath.Join(dir, "new"))
	if err != nil || len(left) != 1 || left[0].Name() != "upload-young" {
		t.Errorf("%v are left, %v", left, err)
	}
}

func TestParseHash(t *testing.T) {
	h := blob.Hash(sha256.Sum256(nil))
	if got, err := blob.ParseHash(h.String()); err != nil || got != h {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "ab", h.String()[1:], h.String() + "0", "../../" + h.String()[6:]} {
		if _, err := blob.ParseHash(bad); err == nil {
			t.Errorf("%q is a hash", bad)
		}
	}
}
