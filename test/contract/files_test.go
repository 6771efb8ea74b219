package contract

import (
	"bytes"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// pixels is a small picture.
func pixels(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := png.Encode(&out, image.NewGray(image.Rect(0, 0, 64, 64))); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// mediaID is the last part of a file's address.
func mediaID(uri string) string { return uri[strings.LastIndexByte(uri, '/')+1:] }

// files is the chapter on them.
//
// spec: client-server-api/modules/content_repo.md#content-repository
func files(s *scene) {
	alice, bob := s.user("alice"), s.user("bob")
	s.ok("getConfigAuthed", alice)
	s.ok("getConfig", alice)
	picture := file{"image/png", pixels(s.t)}
	uri := s.ok("uploadContent", alice, picture, query{"filename": "dot.png"}).Get("content_uri").Str
	media := mediaID(uri)
	s.refused("uploadContent", alice, 413, "M_TOO_LARGE", file{"image/png", make([]byte, 60<<10)})
	for _, id := range []string{"getContentAuthed", "getContent"} {
		s.ok(id, alice, s.server.Name, media)
		s.refused(id, alice, 404, "M_NOT_FOUND", s.server.Name, "nothing")
	}
	for _, id := range []string{"getContentOverrideNameAuthed", "getContentOverrideName"} {
		s.ok(id, alice, s.server.Name, media, "another.png")
		s.refused(id, alice, 404, "M_NOT_FOUND", s.server.Name, "nothing", "another.png")
	}
	for _, id := range []string{"getContentThumbnailAuthed", "getContentThumbnail"} {
		s.ok(id, alice, s.server.Name, media, query{"width": "8", "height": "8", "method": "crop"})
		s.refused(id, alice, 404, "M_NOT_FOUND", s.server.Name, "nothing", query{"width": "8", "height": "8"})
		s.refused(id, alice, 400, "M_INVALID_PARAM|M_MISSING_PARAM|M_UNKNOWN", s.server.Name, media, query{"width": "-8", "height": "8"})
	}

	later := s.ok("createContent", alice)
	media = mediaID(later.Get("content_uri").Str)
	s.refused("getContentAuthed", alice, 504, "M_NOT_YET_UPLOADED", s.server.Name, media, query{"timeout_ms": "1"})
	s.refused("uploadContentToMXC", bob, 403, "M_FORBIDDEN", s.server.Name, media, picture)
	s.ok("uploadContentToMXC", alice, s.server.Name, media, picture)
	s.refused("uploadContentToMXC", alice, 409, "M_CANNOT_OVERWRITE_MEDIA", s.server.Name, media, picture)
	s.refused("uploadContentToMXC", alice, 404, "M_NOT_FOUND", s.server.Name, "nothing", picture)
	big := file{"application/octet-stream", make([]byte, 45<<10)}
	for range 2 {
		s.ok("uploadContent", bob, big)
	}
	s.refused("uploadContent", bob, 403, "M_FORBIDDEN|M_RESOURCE_LIMIT_EXCEEDED", big)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/dot.png" {
			w.Header().Set("Content-Type", "image/png")
			_, _ = w.Write(picture.data)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<title>A page</title><meta property=og:image content=dot.png>")
	}))
	defer page.Close()
	for _, id := range []string{"getUrlPreviewAuthed", "getUrlPreview"} {
		said := s.ok(id, alice, query{"url": page.URL})
		if said.Get("og:title").Str != "A page" || said.Get("matrix:image:size").Int() != int64(len(picture.data)) {
			s.t.Errorf("%s: %v", id, said)
		}
		s.refused(id, alice, 400, "M_INVALID_PARAM", query{"url": "file:///etc/passwd"})
	}
	guest := s.server.Anonymous(s.t)
	guest.AccessToken = s.ok("register", nil, query{"kind": "guest"}, object{}).Get("access_token").Str
	s.refused("createContent", guest, 403, "M_GUEST_ACCESS_FORBIDDEN")
}
