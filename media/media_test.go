package media_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/internal/testclock"
	"parley/media"
	"parley/media/blob"
	"parley/storage"
	"parley/storage/storagetest"
)

// servers are the others, as far as their files go.
type servers struct {
	mu    sync.Mutex
	files map[string]func() (*serverapi.File, error)
	asked map[string]int
}

func (s *servers) Media(_ context.Context, server id.ServerName, mediaID string, _ time.Duration) (*serverapi.File, error) {
	name := string(server) + "/" + mediaID
	s.mu.Lock()
	s.asked[name]++
	f := s.files[name]
	s.mu.Unlock()
	if f == nil {
		return nil, matrixerr.New(matrixerr.NotFound, "none")
	}
	return f()
}

// put has a server keep a file.
func (s *servers) put(name, content string) {
	s.answer(name, func() (*serverapi.File, error) {
		return &serverapi.File{Body: io.NopCloser(strings.NewReader(content)), Type: "text/plain", Name: "name.txt"}, nil
	})
}

func (s *servers) answer(name string, f func() (*serverapi.File, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = f
}

func (s *servers) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

type fixture struct {
	*media.Server
	db      *storage.DB
	clock   *testclock.Clock
	dir     string
	store   blob.Store
	servers *servers
}

const (
	here  = id.ServerName("x.org")
	alice = id.UserID("@alice:x.org")
	bob   = id.UserID("@bob:x.org")
)

// each runs a test with a new server on each database; change may change its options.
func each(t *testing.T, change func(*media.Options), run func(t *testing.T, f *fixture)) {
	t.Helper()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		f := &fixture{
			clock: testclock.New(time.Now()), dir: t.TempDir(),
			servers: &servers{files: make(map[string]func() (*serverapi.File, error)), asked: make(map[string]int)},
		}
		f.db = storagetest.Open(t, url, nil)
		disk, err := blob.NewDisk(f.dir)
		if err != nil {
			t.Fatal(err)
		}
		f.store = disk
		f.Server = f.another(t, change)
		run(t, f)
	})
}

// another is a second process on the same database and folder.
func (f *fixture) another(t *testing.T, change func(*media.Options)) *media.Server {
	t.Helper()
	o := media.Options{
		DB: f.db, Name: here, Store: f.store, Remote: f.servers, Now: f.clock.Now,
		MaxUpload: 1 << 20, MaxRemote: 1 << 20,
	}
	if change != nil {
		change(&o)
	}
	s, err := media.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func wantCode(t *testing.T, err error, code matrixerr.Code) {
	t.Helper()
	if err == nil && code == "" {
		return
	}
	if err == nil || matrixerr.CodeOf(err) != code {
		t.Errorf("error %v instead of %q", err, code)
	}
}

func (f *fixture) upload(t *testing.T, user id.UserID, content string) string {
	t.Helper()
	mediaID, err := f.Upload(t.Context(), media.Upload{User: user, Type: "text/plain", Name: "a.txt", Body: strings.NewReader(content)})
	if err != nil {
		t.Fatal(err)
	}
	return mediaID
}

// download is the content of a file.
func (f *fixture) download(ctx context.Context, w media.Want) (content string, err error) {
	file, err := f.Get(ctx, w)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(file)
	return string(b), errors.Join(err, file.Close())
}

func ours(mediaID string) media.Want { return media.Want{Origin: here, ID: mediaID} }

func (f *fixture) wantContent(t *testing.T, w media.Want, want string) {
	t.Helper()
	if got, err := f.download(t.Context(), w); err != nil || got != want {
		t.Errorf("%s/%s is %.50q instead of %.50q, %v", w.Origin, w.ID, got, want, err)
	}
}

// files are how many files are on the disk, of blobs and of what is being written.
func (f *fixture) files(t *testing.T) (blobs, unfinished int) {
	t.Helper()
	err := filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if filepath.Base(filepath.Dir(path)) == "new" {
			unfinished++
		} else {
			blobs++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return blobs, unfinished
}

func (f *fixture) wantFiles(t *testing.T, want int) {
	t.Helper()
	if blobs, unfinished := f.files(t); blobs != want || unfinished != 0 {
		t.Errorf("%d blobs and %d that are being written are on the disk, want %d and none", blobs, unfinished, want)
	}
}

// picture is a PNG.
func picture(t testing.TB, width, height int) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			img.Set(x, y, color.RGBA{uint8(x), uint8(y), uint8(x ^ y), 255})
		}
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// fixCRC corrects the checksum of the PNG chunk that begins at an offset.
func fixCRC(b []byte, at int) []byte {
	size := int(binary.BigEndian.Uint32(b[at:]))
	binary.BigEndian.PutUint32(b[at+8+size:], crc32.ChecksumIEEE(b[at+4:at+8+size]))
	return b
}
