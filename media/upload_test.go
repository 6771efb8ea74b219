package media_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"parley/internal/matrixerr"
	"parley/media"
)

// spec: client-server-api/modules/content_repo.md#post_matrixmediav3upload
func TestUpload(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		first := f.upload(t, alice, "hello")
		file, err := f.Get(t.Context(), ours(first))
		if err != nil {
			t.Fatal(err)
		}
		if file.Type != "text/plain" || file.Name != "a.txt" || file.Size() != 5 {
			t.Errorf("it is %q of %q with %d bytes", file.Name, file.Type, file.Size())
		}
		file.Close()
		f.wantContent(t, ours(first), "hello")
		// The same content is kept once, under as many names as there are uploads.
		if second := f.upload(t, bob, "hello"); second == first {
			t.Error("two uploads have one name")
		}
		f.wantFiles(t, 1)
		f.wantContent(t, ours(f.upload(t, alice, "")), "")
		f.wantFiles(t, 2)
	})
}

// What a client says of a file is kept as far as it makes sense, and is never a path.
func TestUploadNames(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		for _, c := range []struct{ kind, name, wantKind, want string }{
			{"image/png", "../../etc/passwd", "image/png", "passwd"},
			{"IMAGE/PNG; a=b", `C:\Users\a.png`, "image/png; a=b", "a.png"},
			{"nonsense/", "a\r\nSet-Cookie: b", "", "aSet-Cookie: b"},
			{"", "\u202egnp.exe", "", "gnp.exe"},
			{"text/plain\r\nX: y", "a\x00b", "", "ab"},
			{strings.Repeat("a", 300) + "/b", strings.Repeat("é", 300), "", strings.Repeat("é", 127)},
			{"text/html", "☕.html", "text/html", "☕.html"},
			{"a/b", "/", "a/b", ""},
		} {
			mediaID, err := f.Upload(t.Context(), media.Upload{User: alice, Type: c.kind, Name: c.name, Body: strings.NewReader("x")})
			if err != nil {
				t.Fatal(err)
			}
			file, err := f.Get(t.Context(), ours(mediaID))
			if err != nil {
				t.Fatal(err)
			}
			file.Close()
			if file.Type != c.wantKind || file.Name != c.want {
				t.Errorf("%q of %q is %q of %q", c.name, c.kind, file.Name, file.Type)
			}
		}
	})
}

// slowly is a body that stops in the middle until it is let go on or given up.
type slowly struct {
	began, goOn chan struct{}
	parts       []string
}

func (s *slowly) Read(p []byte) (int, error) {
	if len(s.parts) == 0 {
		return 0, io.EOF
	}
	if len(s.parts) == 1 {
		close(s.began)
		<-s.goOn
	}
	n := copy(p, s.parts[0])
	s.parts = s.parts[1:]
	return n, nil
}

// What does not come to its end leaves nothing.
func TestUploadRefused(t *testing.T) {
	each(t, func(o *media.Options) { o.MaxUpload, o.UserQuota = 1000, 1500 }, func(t *testing.T, f *fixture) {
		send := func(body io.Reader) error {
			_, err := f.Upload(t.Context(), media.Upload{User: alice, Body: body})
			return err
		}
		wantCode(t, send(strings.NewReader(strings.Repeat("a", 1001))), matrixerr.TooLarge)
		wantCode(t, send(iotest.TimeoutReader(iotest.HalfReader(strings.NewReader(strings.Repeat("a", 1000))))), matrixerr.Unknown)
		wantCode(t, send(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF))), matrixerr.Unknown)
		late := matrixerr.New(matrixerr.Unknown, "late").WithStatus(408)
		if err := send(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(late))); !errors.Is(err, late) {
			t.Errorf("%v", err)
		}
		f.wantFiles(t, 0)

		wantCode(t, send(strings.NewReader(strings.Repeat("a", 1000))), "")
		wantCode(t, send(strings.NewReader(strings.Repeat("b", 501))), matrixerr.Forbidden)
		wantCode(t, send(strings.NewReader(strings.Repeat("c", 500))), "")
		wantCode(t, send(iotest.ErrReader(errors.New("that is not to be read"))), matrixerr.Forbidden)
		// Of what was refused with its content known, the content goes in time.
		f.clock.Pass(3 * time.Hour)
		if err := f.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.wantFiles(t, 2)

		// A quota holds for those that come at once too.
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				_, _ = f.Upload(context.Background(), media.Upload{User: bob, Body: bytes.NewReader(bytes.Repeat([]byte{byte(i)}, 1000))})
			})
		}
		wg.Wait()
		if n, err := f.DeleteOfUser(t.Context(), bob); n != 1 || err != nil {
			t.Errorf("%d files of 1000 bytes are in a quota of 1500, %v", n, err)
		}
	})
}

// A slow upload is nothing to others while it lasts, and nobody sees half of it.
func TestUploadSlow(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		body := &slowly{began: make(chan struct{}), goOn: make(chan struct{}), parts: []string{"hel", "lo"}}
		done := make(chan string, 1)
		go func() {
			mediaID, err := f.Upload(context.Background(), media.Upload{User: alice, Body: body})
			if err != nil {
				t.Error(err)
			}
			done <- mediaID
		}()
		<-body.began
		f.wantContent(t, ours(f.upload(t, bob, "quick")), "quick")
		if blobs, unfinished := f.files(t); blobs != 1 || unfinished != 1 {
			t.Errorf("%d blobs, %d unfinished", blobs, unfinished)
		}
		// Nor does it go while it comes.
		f.clock.Pass(3 * time.Hour)
		if err := f.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		close(body.goOn)
		f.wantContent(t, ours(<-done), "hello")
	})
}

// spec: client-server-api/modules/content_repo.md#post_matrixmediav1create, client-server-api/modules/content_repo.md#put_matrixmediav3uploadservernamemediaid
func TestCreate(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		mediaID, expires, err := f.Create(t.Context(), alice)
		if err != nil || !expires.After(f.clock.Now()) {
			t.Fatalf("%v, %v", expires, err)
		}
		put := func(name, content string) error {
			return f.UploadTo(t.Context(), here, name, media.Upload{User: alice, Body: strings.NewReader(content)})
		}
		_, err = f.Get(t.Context(), ours(mediaID))
		wantCode(t, err, matrixerr.NotYetUploaded)
		wantCode(t, f.UploadTo(t.Context(), here, mediaID, media.Upload{User: bob, Body: strings.NewReader("x")}), matrixerr.Forbidden)
		wantCode(t, f.UploadTo(t.Context(), "y.org", mediaID, media.Upload{User: alice, Body: strings.NewReader("x")}), matrixerr.NotFound)
		wantCode(t, put("nothing", "x"), matrixerr.NotFound)
		// An upload that breaks off may be begun again.
		err = f.UploadTo(t.Context(), here, mediaID, media.Upload{User: alice, Body: iotest.ErrReader(io.ErrUnexpectedEOF)})
		wantCode(t, err, matrixerr.Unknown)
		wantCode(t, put(mediaID, "content"), "")
		f.wantContent(t, ours(mediaID), "content")
		wantCode(t, put(mediaID, "other"), matrixerr.CannotOverwriteMedia)
		f.wantContent(t, ours(mediaID), "content")
		f.wantFiles(t, 1)

		// Of two that come at once, one is the file.
		mediaID, _, err = f.Create(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 2)
		for _, content := range []string{"one", "two"} {
			go func() { errs <- put(mediaID, content) }()
		}
		if a, b := <-errs, <-errs; (a == nil) == (b == nil) {
			t.Errorf("%v, %v", a, b)
		}

		// Nothing may come after its time, nor is it waited for.
		mediaID, expires, err = f.Create(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		f.clock.Pass(expires.Sub(f.clock.Now()))
		wantCode(t, put(mediaID, "late"), matrixerr.NotFound)
		_, err = f.Get(t.Context(), media.Want{Origin: here, ID: mediaID, Timeout: time.Hour})
		wantCode(t, err, matrixerr.NotFound)
	})
}

func TestCreateMany(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		var err error
		n := 0
		for ; err == nil && n < 1000; n++ {
			_, _, err = f.Create(t.Context(), alice)
		}
		wantCode(t, err, matrixerr.LimitExceeded)
		if _, _, err := f.Create(t.Context(), bob); err != nil {
			t.Errorf("what alice began keeps bob: %v", err)
		}
		f.clock.Pass(25 * time.Hour)
		if _, _, err := f.Create(t.Context(), alice); err != nil {
			t.Errorf("what is long over keeps alice: %v", err)
		}
	})
}

// Those who wait for a file have it when it comes, also from another process.
func TestCreateWait(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		other := f.another(t, nil)
		for name, by := range map[string]*media.Server{"this process": f.Server, "another process": other} {
			mediaID, _, err := f.Create(t.Context(), alice)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					f.wantContent(t, media.Want{Origin: here, ID: mediaID, Timeout: time.Minute}, name)
				})
			}
			// One who goes away is no harm to the others.
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := f.Get(ctx, media.Want{Origin: here, ID: mediaID, Timeout: time.Minute}); err == nil {
				t.Error("one who has gone got a file")
			}
			if err := by.UploadTo(t.Context(), here, mediaID, media.Upload{User: alice, Body: strings.NewReader(name)}); err != nil {
				t.Error(err)
			}
			wg.Wait()
		}
	})
}
