package media_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/media"
	"parley/storage"
)

// path is where a content is on the disk.
func (f *fixture) path(content string) string {
	sum := sha256.Sum256([]byte(content))
	name := hex.EncodeToString(sum[:])
	return filepath.Join(f.dir, "blobs", name[:2], name[2:4], name)
}

// lose removes a content from the disk, as a broken disk may.
func (f *fixture) lose(t *testing.T, content string) {
	t.Helper()
	if err := os.Remove(f.path(content)); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) wantGone(t *testing.T, list ...media.Want) {
	t.Helper()
	for _, w := range list {
		w.LocalOnly = true
		_, err := f.Get(t.Context(), w)
		wantCode(t, err, matrixerr.NotFound)
	}
}

func TestQuarantine(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		pic := string(picture(t, 100, 100))
		f.servers.put("y.org/a", pic)
		f.wantContent(t, theirs("a"), pic)
		one, two := f.upload(t, alice, pic), f.upload(t, bob, pic)
		good := f.upload(t, alice, "good")
		if n, err := f.Quarantine(t.Context(), here, one, true); n != 3 || err != nil {
			t.Errorf("%d are quarantined, %v", n, err)
		}
		// Whoever uploads the same, or a server that has it, changes nothing.
		f.servers.put("y.org/b", pic)
		three := f.upload(t, alice, pic)
		pending, _, err := f.Create(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.UploadTo(t.Context(), here, pending, media.Upload{User: alice, Body: strings.NewReader(pic)}); err != nil {
			t.Fatal(err)
		}
		for _, w := range []media.Want{ours(one), ours(two), ours(three), ours(pending), theirs("a"), theirs("b")} {
			_, err := f.Get(t.Context(), w)
			wantCode(t, err, matrixerr.NotFound)
			_, err = f.Thumbnail(t.Context(), w, media.ThumbnailRequest{Width: 32, Height: 32, Method: "crop"})
			wantCode(t, err, matrixerr.NotFound)
		}
		f.wantContent(t, ours(good), "good")
		if _, err := f.Quarantine(t.Context(), here, three, false); err != nil {
			t.Fatal(err)
		}
		f.wantContent(t, ours(one), pic)
		f.wantContent(t, theirs("b"), pic)
		_, err = f.Quarantine(t.Context(), here, "nothing", true)
		wantCode(t, err, matrixerr.NotFound)
	})
}

func TestDelete(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		pic := string(picture(t, 400, 400))
		a, b := f.upload(t, alice, pic), f.upload(t, bob, pic)
		var many []media.Want
		for i := range 205 {
			many = append(many, ours(f.upload(t, alice, fmt.Sprint(i%3))))
		}
		small, err := f.Thumbnail(t.Context(), ours(a), media.ThumbnailRequest{Width: 32, Height: 32, Method: "crop"})
		if err != nil {
			t.Fatal(err)
		}
		small.Close()
		f.wantFiles(t, 5)
		f.clock.Pass(3 * time.Hour)
		// What others have too stays, and with it its thumbnails.
		if n, err := f.DeleteOfUser(t.Context(), alice); n != 206 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		f.wantGone(t, append(many, ours(a))...)
		f.wantContent(t, ours(b), pic)
		f.wantFiles(t, 2)
		if err := f.Delete(t.Context(), here, b); err != nil {
			t.Fatal(err)
		}
		f.wantFiles(t, 0)
		wantCode(t, f.Delete(t.Context(), here, b), matrixerr.NotFound)

		for i := range 3 {
			for _, server := range []string{"y.org", "z.org"} {
				name := fmt.Sprintf("%s/%d", server, i)
				f.servers.put(name, name)
				f.wantContent(t, media.Want{Origin: id.ServerName(server), ID: fmt.Sprint(i)}, name)
			}
		}
		if n, err := f.DeleteOfServer(t.Context(), "y.org"); n != 3 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		f.wantGone(t, theirs("0"), theirs("2"))
		local := media.Want{Origin: "z.org", ID: "1", LocalOnly: true}
		f.wantContent(t, local, "z.org/1")
		if _, err := f.DeleteOfServer(t.Context(), here); err == nil {
			t.Error("our own files are no copies")
		}
	})
}

func TestDeleteOfRoom(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		mine, other := f.upload(t, alice, "mine"), f.upload(t, alice, "other")
		f.servers.put("y.org/a", "theirs")
		f.wantContent(t, theirs("a"), "theirs")
		err := f.db.Write(t.Context(), func(tx *storage.Tx) error {
			for i, room := range []id.RoomID{"!a:x.org", "!b:x.org"} {
				r, err := tx.InsertRoom(room, "11")
				if err != nil {
					return err
				}
				files := []string{`{"content":{"url":"mxc://x.org/` + mine + `","info":{"thumbnail":["mxc://y.org/a"]},"body":"mxc://x.org/../` + other + `"}}`}
				if i == 1 {
					files = []string{`{"content":{"url":"mxc://x.org/` + other + `"}}`}
				}
				for j, text := range files {
					e := storage.Event{ID: id.EventID(fmt.Sprintf("$%d-%d", i, j)), Room: r.NID, JSON: []byte(text)}
					if err := tx.InsertEvent(&e); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := f.DeleteOfRoom(t.Context(), "!a:x.org"); n != 2 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		f.wantGone(t, ours(mine), theirs("a"))
		f.wantContent(t, ours(other), "other")
		if n, err := f.DeleteOfRoom(t.Context(), "!none:x.org"); n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}

// What a crash or a broken disk did is found, and what nobody has goes in time.
func TestVerify(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		for i := range 210 {
			f.upload(t, alice, fmt.Sprint("good ", i%4))
		}
		lost, again, corrupt := f.upload(t, alice, "lost"), f.upload(t, bob, "lost"), f.upload(t, alice, "corrupt")
		if _, _, err := f.Create(t.Context(), alice); err != nil {
			t.Fatal(err)
		}
		f.lose(t, "lost")
		if err := os.WriteFile(f.path("corrupt"), []byte("cORrupt"), 0o600); err != nil {
			t.Fatal(err)
		}
		// A process that ends between the blob and its row leaves a blob that nobody has.
		w, err := f.store.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("unused")); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		v, err := f.Verify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[string]bool)
		for _, p := range v.Problems {
			found[p.ID] = p.Lost
		}
		if len(v.Problems) != 3 || !found[lost] || !found[again] || found[corrupt] || v.Files != 213 || v.Blobs != 6 || v.Unused != 1 {
			t.Errorf("found %+v", v)
		}
		if err := f.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.wantFiles(t, 6) // it may be that its row is yet to come
		f.clock.Pass(3 * time.Hour)
		if err := f.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.wantFiles(t, 5)
	})
}

// Nothing that is uploaded goes while others of the same content are deleted and swept.
func TestSweepRace(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		f.clock.Pass(3 * time.Hour) // so that all on the disk is old
		var wg sync.WaitGroup
		stop := make(chan struct{})
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := f.Tidy(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
		for range 50 {
			mediaID := f.upload(t, alice, "the same")
			f.wantContent(t, ours(mediaID), "the same")
			if err := f.Delete(t.Context(), here, mediaID); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		wg.Wait()
	})
}

func TestThumbnails(t *testing.T) {
	each(t, func(o *media.Options) { o.MaxPixels = 1_000_000 }, func(t *testing.T, f *fixture) {
		pic := picture(t, 800, 400)
		mediaID := f.upload(t, alice, string(pic))
		get := func(w media.Want, r media.ThumbnailRequest) (kind string, size int64, err error) {
			file, err := f.Thumbnail(t.Context(), w, r)
			if err != nil {
				return "", 0, err
			}
			return file.Type, file.Size(), file.Close()
		}
		// Once for all who ask, and for all who ask for about as much.
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				kind, _, err := get(ours(mediaID), media.ThumbnailRequest{Width: 20 + i, Height: 10, Method: "crop"})
				if err != nil || kind != "image/png" {
					t.Errorf("%s, %v", kind, err)
				}
			})
		}
		wg.Wait()
		f.wantFiles(t, 2)
		// One that is larger than any, or than the picture, is the picture.
		for _, r := range []media.ThumbnailRequest{{Width: 5000, Height: 5000}, {Width: 1000, Height: 1000, Method: "scale"}} {
			if _, size, err := get(ours(mediaID), r); err != nil || size != int64(len(pic)) {
				t.Errorf("%+v: %d bytes, %v", r, size, err)
			}
		}
		f.wantFiles(t, 2)
		// One that is lost is made again.
		if err := os.RemoveAll(filepath.Join(f.dir, "blobs")); err != nil {
			t.Fatal(err)
		}
		again := f.upload(t, alice, string(pic))
		if _, _, err := get(ours(again), media.ThumbnailRequest{Width: 32, Height: 32, Method: "crop"}); err != nil {
			t.Error(err)
		}
		for _, bad := range []media.ThumbnailRequest{{Width: 0, Height: 1}, {Width: 1, Height: -1}, {Width: 1, Height: 1, Method: "stretch"}} {
			_, _, err := get(ours(again), bad)
			wantCode(t, err, matrixerr.InvalidParam)
		}
		// Of what is no picture, or a broken one, or a bomb, none is made.
		bomb := picture(t, 8, 8)
		copy(bomb[16:], []byte{0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff})
		for content, code := range map[string]matrixerr.Code{
			"hello":                    matrixerr.Unknown,
			"":                         matrixerr.Unknown,
			string(pic[:len(pic)/2]):   matrixerr.Unknown,
			"\x89PNG\r\n\x1a\n":        matrixerr.Unknown,
			"<svg><script/></svg>":     matrixerr.Unknown,
			string(fixCRC(bomb[:], 8)): matrixerr.TooLarge,
		} {
			_, _, err := get(ours(f.upload(t, alice, content)), media.ThumbnailRequest{Width: 32, Height: 32, Method: "crop"})
			wantCode(t, err, code)
		}
		f.servers.put("y.org/bomb", string(bomb))
		_, _, err := get(theirs("bomb"), media.ThumbnailRequest{Width: 32, Height: 32})
		wantCode(t, err, matrixerr.TooLarge)
		if err != nil && !strings.Contains(fmt.Sprint(err), "too large") {
			t.Error(err)
		}
		// With the last file of a content go its thumbnails.
		f.clock.Pass(3 * time.Hour)
		if _, err := f.DeleteOfUser(t.Context(), alice); err != nil {
			t.Fatal(err)
		}
		if err := f.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.wantFiles(t, 1)
		if got, err := os.ReadFile(f.path(string(bomb))); err != nil || !bytes.Equal(got, bomb) {
			t.Errorf("what is left is not the copy: %v", err)
		}
	})
}
