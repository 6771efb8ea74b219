package disposition

import (
	"strings"
	"testing"
)

func TestOf(t *testing.T) {
	for _, c := range []struct{ kind, name, wantKind, want string }{
		{"", "", "application/octet-stream", "attachment"},
		{"image/png", "", "image/png", "inline"},
		{"text/plain; charset=utf-8", "a.txt", "text/plain; charset=utf-8", "inline; filename=a.txt"},
		{"text/html", "a.html", "text/html", "attachment; filename=a.html"},
		{"image/svg+xml", "a b.svg", "image/svg+xml", `attachment; filename="a b.svg"`},
		{"image/png", "☕.png", "image/png", "inline; filename*=utf-8''%E2%98%95.png"},
		{"image/png", `a"b;c.png`, "image/png", `inline; filename="a\"b;c.png"`},
	} {
		kind, got := Of(c.kind, c.name)
		if kind != c.wantKind || got != c.want {
			t.Errorf("%+v: %s, %s", c, kind, got)
		}
		if Name(got) != c.name {
			t.Errorf("%s names %q and not %q", got, Name(got), c.name)
		}
	}
}

func FuzzOf(f *testing.F) {
	f.Add("image/png", "a.png")
	f.Add("text/html", "\"\r\nSet-Cookie: a=b")
	f.Fuzz(func(t *testing.T, kind, name string) {
		if _, got := Of(kind, name); strings.ContainsAny(got, "\r\n") {
			t.Errorf("%q", got)
		}
	})
}
