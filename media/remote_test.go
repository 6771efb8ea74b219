package media_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/media"
)

func theirs(mediaID string) media.Want { return media.Want{Origin: "y.org", ID: mediaID} }

// spec: client-server-api/modules/content_repo.md#get_matrixclientv1mediadownloadservernamemediaid
func TestRemote(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		// Once for all who ask, also while it comes.
		body := &slowly{began: make(chan struct{}), goOn: make(chan struct{}), parts: []string{"hel", "lo"}}
		f.servers.answer("y.org/a", func() (*serverapi.File, error) {
			return &serverapi.File{Body: io.NopCloser(body), Type: "text/plain", Name: "../a.txt"}, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := f.Get(ctx, theirs("a"))
			gone <- err
		}()
		<-body.began
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { f.wantContent(t, theirs("a"), "hello") })
		}
		// The first goes away, and the others get it nevertheless.
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		close(body.goOn)
		wg.Wait()
		f.wantContent(t, theirs("a"), "hello")
		if n := f.servers.count("y.org/a"); n != 1 {
			t.Errorf("it was asked for %d times", n)
		}
		file, err := f.Get(t.Context(), theirs("a"))
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		if file.Name != "a.txt" || file.Type != "text/plain" {
			t.Errorf("it is %q of %q", file.Name, file.Type)
		}

		// Who wants nothing of others gets what is here.
		f.servers.put("y.org/b", "b")
		local := theirs("b")
		local.LocalOnly = true
		_, err = f.Get(t.Context(), local)
		wantCode(t, err, matrixerr.NotFound)
		f.wantContent(t, theirs("b"), "b")
		f.wantContent(t, local, "b")
	})
}

func TestRemoteRefused(t *testing.T) {
	each(t, func(o *media.Options) { o.MaxRemote = 1000 }, func(t *testing.T, f *fixture) {
		file := func(r io.Reader) func() (*serverapi.File, error) {
			return func() (*serverapi.File, error) { return &serverapi.File{Body: io.NopCloser(r)}, nil }
		}
		fail := func(err error) func() (*serverapi.File, error) {
			return func() (*serverapi.File, error) { return nil, err }
		}
		for name, c := range map[string]struct {
			answer func() (*serverapi.File, error)
			code   matrixerr.Code
			status int // 0 for that of the code
		}{
			"large": {file(strings.NewReader(strings.Repeat("a", 1001))), matrixerr.TooLarge, 502},
			"cut":   {file(io.MultiReader(strings.NewReader("a"), iotest.ErrReader(io.ErrUnexpectedEOF))), matrixerr.Unknown, 502},
			"none":  {nil, matrixerr.NotFound, 0},
			"later": {fail(matrixerr.New(matrixerr.NotYetUploaded, "later")), matrixerr.NotYetUploaded, 0},
			"down":  {fail(errors.New("down")), matrixerr.Unknown, 502},
			"slow":  {fail(context.DeadlineExceeded), matrixerr.Unknown, 504},
			"no":    {fail(matrixerr.New(matrixerr.Forbidden, "no")), matrixerr.Unknown, 502},
		} {
			if c.answer != nil {
				f.servers.answer("y.org/"+name, c.answer)
			}
			_, err := f.Get(t.Context(), theirs(name))
			var m *matrixerr.Error
			if !errors.As(err, &m) || m.Code != c.code || m.Status != c.status {
				t.Errorf("%s: %v with %+v", name, err, m)
			}
		}
		f.wantFiles(t, 0)
		// What can't be a media ID is no reason to ask anybody.
		for _, bad := range []string{"", "..", "../a", "a/b", "a%2Fb", "a b", "é", strings.Repeat("a", 256), "a\x00"} {
			for _, origin := range []id.ServerName{"y.org", here} {
				_, err := f.Get(t.Context(), media.Want{Origin: origin, ID: bad})
				wantCode(t, err, matrixerr.NotFound)
			}
			if n := f.servers.count("y.org/" + bad); n != 0 {
				t.Errorf("%q was asked for", bad)
			}
		}
	})
}

// What there is no room for goes, the longest unused first, and comes again when it is asked for.
func TestRemoteEviction(t *testing.T) {
	each(t, func(o *media.Options) { o.CacheBytes, o.CacheAge = 250, 30*24*time.Hour }, func(t *testing.T, f *fixture) {
		mine := f.upload(t, alice, strings.Repeat("m", 1000))
		content := func(name string) string { return strings.Repeat(name, 100) }
		names := []string{"a", "b", "c"}
		for _, name := range names {
			f.servers.put("y.org/"+name, content(name))
			f.wantContent(t, theirs(name), content(name))
			f.clock.Pass(25 * time.Hour)
		}
		f.wantContent(t, theirs("a"), content("a"))
		f.clock.Pass(25 * time.Hour)
		if err := f.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]bool{"a": true, "b": false, "c": true} {
			w := theirs(name)
			w.LocalOnly = true
			if _, err := f.download(t.Context(), w); (err == nil) != want {
				t.Errorf("%s: %v", name, err)
			}
		}
		f.wantFiles(t, 3)
		f.wantContent(t, theirs("b"), content("b"))
		// All go when nobody asks, and what is ours stays.
		f.clock.Pass(31 * 24 * time.Hour)
		if err := f.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.wantFiles(t, 1)
		f.wantContent(t, ours(mine), strings.Repeat("m", 1000))
		f.wantContent(t, theirs("a"), content("a"))
		if n := f.servers.count("y.org/a"); n != 2 {
			t.Errorf("it was asked for %d times", n)
		}
	})
}

// A copy whose content was lost is had anew.
func TestRemoteLost(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		f.servers.put("y.org/a", "hello")
		f.wantContent(t, theirs("a"), "hello")
		f.lose(t, "hello")
		f.wantContent(t, theirs("a"), "hello")
		// One of our own is not, and nobody else is asked.
		mine := f.upload(t, alice, "mine")
		f.lose(t, "mine")
		_, err := f.Get(t.Context(), ours(mine))
		wantCode(t, err, matrixerr.NotFound)
		if n := f.servers.count("x.org/" + mine); n != 0 {
			t.Error("we asked ourselves")
		}
	})
}

// Those who say not who they are get what is from before a date, and nothing is fetched for them.
//
// spec: client-server-api/modules/content_repo.md#content-repo-client-behaviour
func TestFrozen(t *testing.T) {
	frozen := time.Now().Add(time.Hour)
	each(t, func(o *media.Options) { o.Frozen = frozen }, func(t *testing.T, f *fixture) {
		open := func(w media.Want) media.Want {
			w.Unauthenticated = true
			return w
		}
		for _, name := range []string{"a", "b", "c"} {
			f.servers.put("y.org/"+name, name)
		}
		before := f.upload(t, alice, "before")
		f.wantContent(t, open(theirs("a")), "a") // it is not the time yet
		f.clock.Pass(2 * time.Hour)
		after := f.upload(t, alice, "after")
		f.wantContent(t, theirs("b"), "b")
		f.wantContent(t, open(ours(before)), "before")
		f.wantContent(t, open(theirs("a")), "a")
		for _, w := range []media.Want{ours(after), theirs("b"), theirs("c")} {
			_, err := f.Get(t.Context(), open(w))
			wantCode(t, err, matrixerr.NotFound)
		}
		f.wantContent(t, ours(after), "after")
		if n := f.servers.count("y.org/c"); n != 0 {
			t.Error("it was fetched for nobody")
		}
	})
	// Where no date is given, that is for ever ago.
	each(t, nil, func(t *testing.T, f *fixture) {
		w := ours(f.upload(t, alice, "a"))
		w.Unauthenticated = true
		_, err := f.Get(t.Context(), w)
		wantCode(t, err, matrixerr.NotFound)
	})
}
