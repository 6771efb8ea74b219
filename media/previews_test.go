package media_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"parley/internal/matrixerr"
	"parley/media"
	"parley/media/preview"
)

// web is the servers of all pages.
type web struct {
	server *httptest.Server
	mu     sync.Mutex
	asked  map[string]int
}

func newWeb(t *testing.T, pages map[string]string) *web {
	w := &web{asked: make(map[string]int)}
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.asked[r.URL.Path]++
		w.mu.Unlock()
		kind, body, ok := strings.Cut(pages[r.URL.Path], "\n")
		if !ok {
			http.NotFound(rw, r)
			return
		}
		rw.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(rw, body)
	}))
	t.Cleanup(w.server.Close)
	return w
}

func (w *web) count(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[path]
}

func (w *web) options(o *media.Options) {
	o.Previews = preview.New(preview.Options{Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, w.server.Listener.Addr().String())
	}})
}

// spec: client-server-api/modules/content_repo.md#get_matrixclientv1mediapreview_url
func TestPreview(t *testing.T) {
	small := string(picture(t, 279, 129))
	w := newWeb(t, map[string]string{
		"/page":     "text/html\n<meta property=og:title content=Title><meta property=og:image content=i.png>",
		"/i.png":    "image/png\n" + small,
		"/broken":   "text/html\n<meta property=og:title content=Title><meta property=og:image content=none.png>",
		"/fake":     "text/html\n<meta property=og:title content=Title><meta property=og:image content=fake.png>",
		"/fake.png": "image/png\n<script>alert(1)</script>",
		"/huge":     "text/html\n<meta property=og:title content=Title><meta property=og:image content=huge.png>",
		"/huge.png": "image/png\n" + small + strings.Repeat("x", 10<<20),
		"/empty":    "text/html\n<p>",
	})
	each(t, w.options, func(t *testing.T, f *fixture) {
		get := func(path string) map[string]any {
			t.Helper()
			raw, err := f.Preview(t.Context(), "http://a.org"+path)
			if err != nil {
				t.Fatal(err)
			}
			var out map[string]any
			if err := json.Unmarshal(raw, &out); err != nil {
				t.Fatal(err)
			}
			return out
		}
		before := w.count("/page")
		got := get("/page")
		uri, _ := got["og:image"].(string)
		mediaID, ok := strings.CutPrefix(uri, "mxc://x.org/")
		delete(got, "og:image")
		want := fmt.Sprintf("map[matrix:image:size:%d og:image:height:129 og:image:type:image/png og:image:width:279 og:title:Title]", len(small))
		if fmt.Sprint(got) != want || !ok {
			t.Errorf("%v with %q, want %s", got, uri, want)
		}
		f.wantContent(t, ours(mediaID), small)
		small, err := f.Thumbnail(t.Context(), ours(mediaID), media.ThumbnailRequest{Width: 32, Height: 32, Method: "crop"})
		if err != nil {
			t.Fatal(err)
		}
		small.Close()
		// Once for all who ask until it is old, in whatever process.
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { get("/page#fragment") })
		}
		wg.Wait()
		if _, err := f.another(t, w.options).Preview(t.Context(), "http://a.org/page"); err != nil {
			t.Error(err)
		}
		if n := w.count("/page") - before; n != 1 {
			t.Errorf("the page was asked for %d times", n)
		}
		f.clock.Pass(2 * time.Hour)
		if err := f.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		get("/page")
		if n := w.count("/page") - before; n != 2 {
			t.Errorf("the page was asked for %d times", n)
		}
		// A page is worth showing without its picture.
		for _, path := range []string{"/broken", "/fake", "/huge"} {
			if got := get(path); fmt.Sprint(got) != "map[og:title:Title]" {
				t.Errorf("%s: %v", path, got)
			}
		}
		if got := get("/empty"); len(got) != 0 {
			t.Errorf("an empty page says %v", got)
		}
		// What can't be had is not asked for again at once, and nobody is told why.
		before = w.count("/none")
		for range 3 {
			_, err := f.Preview(t.Context(), "http://a.org/none")
			wantCode(t, err, matrixerr.Unknown)
			if err == nil || strings.Contains(err.Error(), "404") {
				t.Errorf("%v", err)
			}
		}
		if n := w.count("/none") - before; n != 1 {
			t.Errorf("what isn't there was asked for %d times", n)
		}
		_, err = f.Preview(t.Context(), "ftp://a.org/")
		wantCode(t, err, matrixerr.InvalidParam)
	})
}

// A quarantined picture does not come back by way of a page.
func TestPreviewQuarantined(t *testing.T) {
	w := newWeb(t, map[string]string{
		"/page":  "text/html\n<meta property=og:title content=Title><meta property=og:image content=i.png>",
		"/i.png": "image/png\n" + string(picture(t, 50, 50)),
	})
	each(t, w.options, func(t *testing.T, f *fixture) {
		mediaID := f.upload(t, alice, string(picture(t, 50, 50)))
		if _, err := f.Quarantine(t.Context(), here, mediaID, true); err != nil {
			t.Fatal(err)
		}
		if raw, err := f.Preview(t.Context(), "http://a.org/page"); err != nil || string(raw) != `{"og:title":"Title"}` {
			t.Errorf("%s, %v", raw, err)
		}
	})
}

func TestNoPreviews(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fixture) {
		_, err := f.Preview(t.Context(), "http://a.org/")
		wantCode(t, err, matrixerr.NotFound)
	})
}
