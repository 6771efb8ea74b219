package main

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestIndex(t *testing.T) {
	pages := fstest.MapFS{
		"b.md": {Data: []byte("# The `m.room.create` Event: Who & Why?\n\n## Server behaviour\n### Server behaviour\n####### not a heading\n")},
		"a/index.md": {Data: []byte(strings.ReplaceAll(`
# [Linked](/elsewhere#x) heading
#### Client behaviour {id="own-id"}
##### Extensions to /sync {#e2e-sync}
### Homeserver -&gt; Client
'''
# a comment in code
'''
- 'GET /_matrix/client/v3/rooms/{roomId}/state' — Get it.
- 'GET /.well-known/matrix/client' — Known.
- **'m.room.power_levels'** — schema [x](y)
- **'notanevent'** — or is it
**<a id="by-hand"></a>text**
`, "'", "`"))},
		"image.png": {Data: []byte("# no page")},
	}
	var out strings.Builder
	if err := index(&out, pages); err != nil {
		t.Fatal(err)
	}
	want := `a/index.md
	linked-heading
	own-id
	e2e-sync
	homeserver---client
	get_matrixclientv3roomsroomidstate
	getwell-knownmatrixclient
	mroompower_levels
	by-hand
b.md
	the-mroomcreate-event-who--why
	server-behaviour
	server-behaviour-1
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
