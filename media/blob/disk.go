package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Disk keeps blobs in a folder: blobs/ab/cd/abcd…, after the hash, and what is being written
// in new/. A blob is there whole or not at all: it is written under another name, synced, and
// renamed.
type Disk struct {
	dir string
}

// staleUpload is how old a file in new/ is before it is taken for what a crash left.
const staleUpload = 24 * time.Hour

// NewDisk opens the folder, which it makes where there is none, and removes what a crash may
// have left there.
func NewDisk(dir string) (*Disk, error) {
	d := &Disk{dir}
	for _, sub := range []string{d.newDir(), d.blobDir()} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, fmt.Errorf("make the media folder: %w", err)
		}
	}
	if err := removeStale(d.newDir()); err != nil {
		return nil, err
	}
	return d, nil
}

// removeStale removes what a crash left of uploads.
func removeStale(dir string) error {
	left, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the folder of uploads: %w", err)
	}
	for _, entry := range left {
		// Another process may be writing it now.
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > staleUpload {
			_ = os.Remove(filepath.Join(dir, entry.Name()))
		}
	}
	return nil
}

func (d *Disk) newDir() string  { return filepath.Join(d.dir, "new") }
func (d *Disk) blobDir() string { return filepath.Join(d.dir, "blobs") }

func (d *Disk) path(h Hash) string {
	name := h.String()
	return filepath.Join(d.blobDir(), name[:2], name[2:4], name)
}

type diskWriter struct {
	d    *Disk
	file *os.File
	hash hash.Hash
	size int64
}

// Create implements [Store].
func (d *Disk) Create(context.Context) (Writer, error) {
	file, err := os.CreateTemp(d.newDir(), "upload-*") // only its owner may read it
	if err != nil {
		return nil, fmt.Errorf("begin a file: %w", err)
	}
	return &diskWriter{d: d, file: file, hash: sha256.New()}, nil
}

func (w *diskWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	return n, err
}

func (w *diskWriter) Commit(context.Context) (Info, error) {
	info := Info{Hash: Hash(w.hash.Sum(nil)), Size: w.size, Stored: time.Now()}
	path := w.d.path(info.Hash)
	if err := errors.Join(w.file.Sync(), w.file.Close()); err != nil {
		w.Abort()
		return Info{}, fmt.Errorf("write a file: %w", err)
	}
	// The time by which a blob is known to be new, although there may have been one before.
	now := info.Stored
	if err := os.Chtimes(path, now, now); err == nil {
		w.Abort()
		return info, nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.Abort()
		return Info{}, fmt.Errorf("keep a file: %w", err)
	}
	if err := os.Rename(w.file.Name(), path); err != nil {
		w.Abort()
		return Info{}, fmt.Errorf("keep a file: %w", err)
	}
	w.file = nil
	for _, dir := range []string{dir, filepath.Dir(dir), w.d.blobDir()} {
		if err := syncDir(dir); err != nil {
			return Info{}, fmt.Errorf("keep a file: %w", err)
		}
	}
	return info, nil
}

func (w *diskWriter) Abort() {
	if w.file == nil {
		return
	}
	_ = w.file.Close()
	_ = os.Remove(w.file.Name())
	w.file = nil
}

// syncDir has the names of the files in a folder survive the loss of power.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type diskBlob struct {
	*os.File
	size int64
}

func (b diskBlob) Size() int64 { return b.size }

// Open implements [Store].
func (d *Disk) Open(_ context.Context, h Hash) (Blob, error) {
	file, err := os.Open(d.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("open a file: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return diskBlob{file, info.Size()}, nil
}

// Stat implements [Store].
func (d *Disk) Stat(_ context.Context, h Hash) (Info, error) {
	info, err := os.Stat(d.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, ErrNotFound
	}
	if err != nil {
		return Info{}, err
	}
	return Info{Hash: h, Size: info.Size(), Stored: info.ModTime()}, nil
}

// Delete implements [Store].
func (d *Disk) Delete(_ context.Context, h Hash) error {
	if err := os.Remove(d.path(h)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete a file: %w", err)
	}
	return nil
}

// Each implements [Store].
func (d *Disk) Each(ctx context.Context, fn func(Info) error) error {
	return filepath.WalkDir(d.blobDir(), func(_ string, entry fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil || entry.IsDir() {
			return err
		}
		h, err := ParseHash(entry.Name())
		if err != nil {
			return nil // none of ours
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return fn(Info{Hash: h, Size: info.Size(), Stored: info.ModTime()})
	})
}
