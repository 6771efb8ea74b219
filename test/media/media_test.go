// Package media holds black-box tests of files: real processes on both databases, mautrix-go as the client, a second
// Parley and a Synapse as the servers from which files come and to which they go.
//
// spec: client-server-api/modules/content_repo.md#content-repository
package media

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// node is a server whose files are to be seen.
type node struct {
	*harness.Server
	dir string
}

func settings(dir string) string {
	return "registration:\n  allow: anyone\nrate_limits:\n  enabled: false\nmedia:\n  directory: " + dir + "\n"
}

func start(t *testing.T, db harness.Database) *node {
	dir := t.TempDir()
	return &node{harness.StartConfigured(t, db, settings(dir)), dir}
}

// photo is a JPEG.
func photo(t *testing.T, width, height int) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			img.Set(x, y, color.RGBA{uint8(x), uint8(y), 100, 255})
		}
	}
	var out bytes.Buffer
	if err := jpeg.Encode(&out, img, nil); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func upload(t *testing.T, u *harness.User, content []byte, kind, name string) id.ContentURI {
	t.Helper()
	resp, err := u.UploadBytesWithName(t.Context(), content, kind, name)
	if err != nil {
		t.Fatalf("%s uploads: %v", u.UserID, err)
	}
	return resp.ContentURI
}

func wantContent(t *testing.T, u *harness.User, uri id.ContentURI, want []byte) {
	t.Helper()
	got, err := u.DownloadBytes(t.Context(), uri)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s gets %d bytes of %s instead of %d: %v", u.UserID, len(got), uri, len(want), err)
	}
}

// wantThumbnail fails the test unless there is a thumbnail of that size.
func wantThumbnail(t *testing.T, u *harness.User, uri id.ContentURI, width, height int) {
	t.Helper()
	resp, err := u.DownloadThumbnail(t.Context(), uri, height, width, mautrix.DownloadThumbnailExtra{Method: "scale"})
	if err != nil {
		t.Errorf("%s: a thumbnail of %s: %v", u.UserID, uri, err)
		return
	}
	defer resp.Body.Close()
	c, _, err := image.DecodeConfig(resp.Body)
	if err != nil || c.Width != width || c.Height != height {
		t.Errorf("%s: the thumbnail of %s has %d by %d: %v", u.UserID, uri, c.Width, c.Height, err)
	}
}

// files are the names of all files below a folder.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestFiles(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		s := start(t, db)
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		picture := photo(t, 1280, 960)
		uri := upload(t, alice, picture, "image/jpeg", "photo.jpg")
		wantContent(t, bob, uri, picture)
		wantThumbnail(t, bob, uri, 320, 240)

		path := harness.Path("v1", "media", "download", uri.Homeserver, uri.FileID)
		get := func(path, token string, headers ...string) harness.Response {
			t.Helper()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			for i := 0; i < len(headers); i += 2 {
				req.Header.Set(headers[i], headers[i+1])
			}
			return harness.Send(req)
		}
		whole := get(path, bob.AccessToken)
		for name, want := range map[string]string{
			"Content-Type": "image/jpeg", "Content-Disposition": "inline; filename=photo.jpg", "X-Content-Type-Options": "nosniff",
			"Cross-Origin-Resource-Policy": "cross-origin", "Accept-Ranges": "bytes", "Content-Length": fmt.Sprint(len(picture)),
		} {
			if got := whole.Header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if policy := whole.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "sandbox") || !strings.Contains(policy, "default-src 'none'") {
			t.Errorf("the policy is %q", policy)
		}
		part := get(path, bob.AccessToken, "Range", "bytes=10-19")
		if part.Status != http.StatusPartialContent || !bytes.Equal(part.Body, picture[10:20]) {
			t.Errorf("a range: %d, %d bytes", part.Status, len(part.Body))
		}
		if got := get(path, bob.AccessToken, "If-None-Match", whole.Header.Get("ETag")); got.Status != http.StatusNotModified || len(got.Body) != 0 {
			t.Errorf("it was not modified: %d, %d bytes", got.Status, len(got.Body))
		}
		get(path, "").WantError(t, http.StatusUnauthorized, "M_MISSING_TOKEN")
		// The endpoints of old are frozen.
		old := "/_matrix/media/v3/download/" + uri.Homeserver + "/" + uri.FileID
		get(old, "").WantError(t, http.StatusNotFound, "M_NOT_FOUND")
		get(old, bob.AccessToken).WantError(t, http.StatusNotFound, "M_NOT_FOUND")
		// What could run in a page is to be saved, whatever name it is given.
		page := upload(t, alice, []byte("<script>alert(1)</script>"), "text/html", "../../a\".html")
		got := get(harness.Path("v1", "media", "download", page.Homeserver, page.FileID), bob.AccessToken)
		if d := got.Header.Get("Content-Disposition"); !strings.HasPrefix(d, "attachment") || strings.Contains(d, "..") {
			t.Errorf("the page is %q", d)
		}
		got = get(harness.Path("v1", "media", "download", page.Homeserver, page.FileID, "x.png"), bob.AccessToken)
		if d := got.Header.Get("Content-Disposition"); d != "attachment; filename=x.png" {
			t.Errorf("the page is %q", d)
		}
		for _, bad := range []string{"..", "..%2F..%2Fetc%2Fpasswd", "%00", "a%2Fb"} {
			if got := get("/_matrix/client/v1/media/download/"+uri.Homeserver+"/"+bad, bob.AccessToken); got.Status != 404 && got.Status != 400 {
				t.Errorf("%s: %d %s", bad, got.Status, got.Body)
			}
		}
		// Later is soon enough.
		waitedFor(t, alice, bob)
	})
}

// waitedFor has one ask for a file that the other has not uploaded yet.
func waitedFor(t *testing.T, from, to *harness.User) {
	t.Helper()
	made, err := from.CreateMXC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		content, err := to.DownloadBytes(t.Context(), made.ContentURI)
		if err == nil && string(content) != "at last" {
			err = fmt.Errorf("it is %q", content)
		}
		done <- err
	}()
	if _, err := from.UploadMedia(t.Context(), mautrix.ReqUploadMedia{ContentBytes: []byte("at last"), ContentType: "text/plain", MXC: made.ContentURI}); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// half begins an upload and sends half of it.
func half(t *testing.T, s *node, u *harness.User) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_, err = fmt.Fprintf(conn, "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: text/plain\r\nContent-Length: 200000\r\n\r\n%s",
		u.AccessToken, strings.Repeat("a", 100_000))
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the upload has begun", func() bool { return len(files(t, filepath.Join(s.dir, "new"))) == 1 })
	return conn
}

// await asks until something is so.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("it is not so: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// An upload that is broken off leaves nothing; one that is acknowledged is there after a crash; and what a disk lost is
// found.
func TestBrokenUploads(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		s := start(t, db)
		alice := s.Register(t, "alice")
		half(t, s, alice).Close()
		await(t, "nothing is left", func() bool { return len(files(t, s.dir)) == 0 })

		kept := upload(t, alice, []byte("kept"), "text/plain", "")
		lost := upload(t, alice, []byte("lost"), "text/plain", "")
		corrupt := upload(t, alice, []byte("corrupt"), "text/plain", "")
		half(t, s, alice)
		s.Kill()
		s.Run()
		wantContent(t, alice, kept, []byte("kept"))
		if out, status := s.Command("media", "verify"); status != 0 {
			t.Errorf("after a crash, status %d: %s", status, out)
		}
		for _, name := range files(t, filepath.Join(s.dir, "blobs")) {
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			switch string(content) {
			case "lost":
				err = os.Remove(name)
			case "corrupt":
				err = os.WriteFile(name, []byte("corrupT"), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		out, status := s.Command("media", "verify")
		for _, want := range []string{"lost: " + lost.String(), "corrupt: " + corrupt.String()} {
			if status != 1 || !strings.Contains(out, want) {
				t.Errorf("status %d, without %q: %s", status, want, out)
			}
		}
		if strings.Contains(out, kept.String()) {
			t.Errorf("what is well is said to be not: %s", out)
		}
	})
}

// TestTwo has two Parleys.
func TestTwo(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		network := harness.NewNetwork(t)
		first, second := network.Parley(t, db, ""), network.Parley(t, db.Another(t), "")
		exchange(t, first, second)
		exchange(t, second, first)
		// What was copied is there when its server is not.
		alice, bob := first.Register(t, "alice"), second.Register(t, "bob")
		copied, other := upload(t, alice, []byte("copied"), "text/plain", "a.txt"), upload(t, alice, []byte("other"), "text/plain", "")
		wantContent(t, bob, copied, []byte("copied"))
		first.Stop()
		wantContent(t, bob, copied, []byte("copied"))
		resp, err := bob.Download(t.Context(), copied)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if d := resp.Header.Get("Content-Disposition"); d != "inline; filename=a.txt" {
			t.Errorf("a copy is %q", d)
		}
		gone := second.Do(t, http.MethodGet, harness.Path("v1", "media", "download", other.Homeserver, other.FileID), bob.AccessToken, nil)
		if gone.Status != http.StatusBadGateway && gone.Status != http.StatusGatewayTimeout {
			t.Errorf("what can't be had: %d %s", gone.Status, gone.Body)
		}
		first.Run()
	})
}

// TestSynapse has a Parley and a Synapse.
func TestSynapse(t *testing.T) {
	network := harness.NewNetwork(t)
	synapse := network.Synapse(t)
	parley := network.Parley(t, harness.Database{Kind: "sqlite"}, "")
	exchange(t, synapse, parley)
	exchange(t, parley, synapse)
}

// exchange has somebody see what somebody on another server uploads.
func exchange(t *testing.T, from, to *harness.Server) {
	t.Helper()
	alice, bob := from.Register(t, "alice"), to.Register(t, "bob")
	picture := photo(t, 1280, 960)
	uri := upload(t, alice, picture, "image/jpeg", "photo ☕.jpg")
	wantContent(t, bob, uri, picture)
	wantThumbnail(t, bob, uri, 320, 240)
	resp, err := bob.Download(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); kind != "image/jpeg" {
		t.Errorf("it is %q", kind)
	}
	if d := resp.Header.Get("Content-Disposition"); !strings.Contains(d, "photo%20%E2%98%95.jpg") {
		t.Errorf("on %s, which has it from %s, it is %q", to.Name, from.Name, d)
	}
	// A large one, and one that comes while it is waited for.
	large := bytes.Repeat([]byte("0123456789\r\n--x--\r\n"), 500_000)
	wantContent(t, bob, upload(t, alice, large, "application/octet-stream", ""), large)
	waitedFor(t, alice, bob)
	absent := to.Do(t, http.MethodGet, harness.Path("v1", "media", "download", from.Name, "nothing"), bob.AccessToken, nil)
	absent.WantError(t, http.StatusNotFound, "M_NOT_FOUND")
}
