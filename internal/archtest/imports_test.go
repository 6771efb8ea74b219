package archtest

import (
	"fmt"
	"strings"
	"testing"
)

// tree says what of ours each package may import outside its tests. The first line that
// matches a package holds for it; "x/..." is x and all below it.
var tree = []struct {
	pkg  string
	may  []string
	why  string
	leaf bool // nothing outside tests and cmd may import it
}{
	{pkg: "cmd/...", may: []string{"..."}, leaf: true,
		why: "main wires everything by hand, so it knows everybody, and nobody knows it"},
	{pkg: "config", may: []string{"internal/id"},
		why: "settings have no behaviour; cmd copies them into each package's own options"},

	{pkg: "clientapi/syncapi/...", may: []string{"clientapi/syncapi/...", "roomserver", "storage", "internal/..."},
		why: "sync reads the log itself, and asks the room server only for visibility"},
	{pkg: "clientapi/...", may: []string{"clientapi/...", "roomserver", "userserver", "media", "internal/..."},
		why: "faces speak HTTP to the hearts; they neither reach past them into storage nor know the other face"},
	{pkg: "federation/remote/...", may: []string{"federation/remote/...", "storage", "internal/..."},
		why: "what we ask of other servers is built first and given to the hearts, so it needs only storage"},
	{pkg: "federation/sender/...", may: []string{"federation/sender/...", "federation/remote", "storage", "internal/..."},
		why: "the sender reads the log, as every consumer of it does"},
	{pkg: "federation/...", may: []string{"federation/...", "roomserver", "userserver", "media", "internal/..."},
		why: "faces speak HTTP to the hearts; they neither reach past them into storage nor know the other face"},

	{pkg: "roomserver/...", may: []string{"roomserver/...", "storage", "internal/..."},
		why: "hearts don't know each other, nor the faces; a need upward is an interface that cmd fills in"},
	{pkg: "userserver/...", may: []string{"userserver/...", "storage", "internal/..."},
		why: "hearts don't know each other, nor the faces; a need upward is an interface that cmd fills in"},
	{pkg: "media/...", may: []string{"media/...", "storage", "internal/..."},
		why: "hearts don't know each other, nor the faces; a need upward is an interface that cmd fills in"},
	{pkg: "push/...", may: []string{"push/...", "storage", "internal/..."},
		why: "it delivers what the log shows, and nobody need know that it does"},
	{pkg: "appservice/...", may: []string{"appservice/...", "storage", "internal/..."},
		why: "it delivers what the log shows, and nobody need know that it does"},

	{pkg: "storage/sqldb/...", may: []string{"storage/sqldb/...", "internal/id"},
		why: "the dialect layer knows SQL and positions, not what is stored"},
	{pkg: "storage/migrations", may: nil,
		why: "migrations are text"},
	{pkg: "storage/storagetest", may: []string{"storage/...", "internal/..."}, leaf: true,
		why: "it makes databases for tests"},
	{pkg: "storage/...", may: []string{"storage/...", "internal/id", "internal/stream"},
		why: "the ground stands on nothing; of the stream it knows the notice alone"},

	{pkg: "internal/id", may: nil,
		why: "everything imports the identifiers"},
	{pkg: "internal/matrixerr", may: []string{"internal/id"},
		why: "every package above storage imports the errors"},
	{pkg: "internal/stream", may: []string{"internal/id"},
		why: "storage imports the notice"},
	{pkg: "internal/pushrules", may: []string{"internal/id", "internal/matrixerr"},
		why: "push rules are pure: an event and the rules in, actions out"},
	{pkg: "internal/delivery/...", may: []string{"storage", "internal/..."},
		why: "cursors and queues are durable, so they are in storage"},
	{pkg: "internal/unread", may: []string{"storage", "roomserver", "internal/..."},
		why: "what is unread is read from the log, as far as the room server lets the reader see it"},
	{pkg: "internal/mail/mailtest", may: nil, leaf: true,
		why: "it takes the mails of tests"},
	{pkg: "internal/eventually", may: nil, leaf: true,
		why: "tests wait by it"},
	{pkg: "internal/testclock", may: nil, leaf: true,
		why: "tests move it"},
	{pkg: "internal/testserver/...", may: []string{"...", "!cmd", "!config"}, leaf: true,
		why: "it makes whole servers for tests, from options and not from settings"},
	{pkg: "internal/gen/...", may: []string{"..."}, leaf: true,
		why: "generators read the tables of whoever has them"},
	{pkg: "internal/...", may: []string{"internal/..."},
		why: "what all may import must not import them"},

	{pkg: "test/bench", may: []string{"storage", "roomserver", "userserver", "internal/id", "internal/serverapi", "federation/remote", "federation/remote/keyring"}, leaf: true,
		why: "it fills a database through the hearts, as making 20,000 accounts by HTTP takes hours, and asks a node as another node does"},
	{pkg: "test/...", may: []string{"test/...", "internal/id"}, leaf: true,
		why: "black-box tests know a server by its process and its HTTP API, as its users do"},
}

// borders say who may import packages that are not ours, outside tests. In only and never
// are packages of ours; a path of both our own and the others' packages may end in "/...".
var borders = []struct {
	pkg         string
	only, never []string
	why         string
}{
	{pkg: "database/sql/...", only: []string{"storage/..."},
		why: "all SQL is in storage, once"},
	{pkg: "github.com/lib/pq/...", only: []string{"storage/sqldb", "storage/storagetest"},
		why: "one layer knows which database it is"},
	{pkg: "modernc.org/sqlite/...", only: []string{"storage/sqldb", "storage/storagetest"},
		why: "one layer knows which database it is"},
	{pkg: "github.com/matrix-org/gomatrixserverlib/...", only: []string{"roomserver/...", "federation/..."},
		why: "its types stay where events are made and checked; storage sees ids and bytes"},
	{pkg: "github.com/gin-gonic/gin/...", only: []string{"internal/httpapi/..."},
		why: "handlers are typed functions; one adapter knows the router"},
	{pkg: "net/http/...", never: []string{"roomserver/...", "userserver/...", "storage/...", "config", "internal/matrixerr", "internal/pushrules"},
		why: "the hearts know no HTTP; one function turns errors into statuses"},
	{pkg: "github.com/spf13/...", only: []string{"cmd/..."},
		why: "the command line is main's"},
	{pkg: "github.com/goccy/go-yaml/...", only: []string{"config", "appservice/...", "internal/gen/openapi"},
		why: "what operators write is YAML, and nothing else is but the specification's definitions"},
	{pkg: "github.com/wneessen/go-mail/...", only: []string{"internal/mail"},
		why: "one package knows how mail is made and sent"},
	{pkg: "github.com/nats-io/...", only: []string{"internal/stream/..."},
		why: "who waits for a notice need not know how it came"},
	{pkg: "maunium.net/go/mautrix/...", only: []string{"test/..."},
		why: "it is the client that nobody here wrote; the server must not share its mistakes"},
	{pkg: "testing", only: []string{"storage/storagetest", "internal/testserver/...", "internal/mail/mailtest", "internal/eventually", "test/..."},
		why: "the binary has no test code"},
	{pkg: "log", never: []string{"..."},
		why: "logs are structured: log/slog"},
	{pkg: "math/rand", never: []string{"..."},
		why: "math/rand/v2 for jitter, crypto/rand for all else"},
	{pkg: "encoding/gob", never: []string{"..."},
		why: "what is stored or sent is JSON, or documented bytes"},
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range p.files {
			if f.test {
				continue
			}
			for _, path := range f.imports() {
				if why := forbidden(p.path, path); why != "" {
					t.Errorf("%s: %s must not import %s: %s", f.name, p.path, path, why)
				}
			}
		}
	}
}

// forbidden says why a package of ours must not import a path; it is empty when it may.
func forbidden(pkg, path string) string {
	ours, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		for _, b := range borders {
			if match(b.pkg, path) && (b.only != nil && !matchAny(b.only, pkg) || matchAny(b.never, pkg)) {
				return b.why
			}
		}
		return ""
	}
	for _, line := range tree {
		// A leaf's own packages may know each other.
		if line.leaf && match(line.pkg, ours) && !match(line.pkg, pkg) && !match("cmd/...", pkg) && !match("internal/testserver/...", pkg) {
			return line.why
		}
	}
	for _, line := range tree {
		if match(line.pkg, pkg) {
			if matchAny(line.may, ours) {
				return ""
			}
			return fmt.Sprintf("%s (it may import %s)", line.why, strings.Join(line.may, ", "))
		}
	}
	return "no line of the import tree says what this package may import; add one, with its reason"
}

func match(pattern, path string) bool {
	if pattern == "..." {
		return true
	}
	below, ok := strings.CutSuffix(pattern, "/...")
	return path == below || ok && strings.HasPrefix(path, below+"/")
}

// matchAny says whether one of the patterns matches, and none that starts with "!".
func matchAny(patterns []string, path string) bool {
	yes := false
	for _, p := range patterns {
		if not, ok := strings.CutPrefix(p, "!"); ok && match(not, path) {
			return false
		}
		yes = yes || match(p, path)
	}
	return yes
}

func TestForbidden(t *testing.T) {
	for _, c := range []struct {
		pkg, path string
		may       bool
	}{
		{"cmd/parley", "parley/clientapi/syncapi", true},
		{"cmd/parley", "parley/storage/sqldb", true},
		{"cmd/parley", "parley/internal/httpapi", true},
		{"cmd/parley", "github.com/spf13/cobra", true},
		{"clientapi", "parley/config", false},
		{"internal/testserver", "parley/config", false},
		{"internal/testserver", "parley/storage/storagetest", true},
		{"internal/testserver", "parley/clientapi", true},
		{"internal/httpapi", "parley/internal/testserver", false},
		{"internal/httpapi", "parley/storage", false},
		{"internal/httpapi", "github.com/gin-gonic/gin", true},
		{"internal/delivery", "parley/storage", true},
		{"internal/gen/configdoc", "parley/config", true},
		{"config", "parley/internal/id", true},
		{"config", "parley/storage", false},
		{"clientapi", "parley/userserver", true},
		{"clientapi", "parley/storage", false},
		{"clientapi", "parley/federation", false},
		{"clientapi", "github.com/gin-gonic/gin", false},
		{"clientapi/syncapi", "parley/storage", true},
		{"clientapi/syncapi", "parley/userserver", false},
		{"federation", "parley/clientapi", false},
		{"federation", "parley/federation/remote", true},
		{"federation/remote", "parley/roomserver", false},
		{"roomserver", "parley/roomserver/state", true},
		{"roomserver", "parley/userserver", false},
		{"roomserver", "net/http", false},
		{"roomserver", "net/http/httptrace", false},
		{"roomserver/state", "github.com/matrix-org/gomatrixserverlib/spec", true},
		{"userserver", "github.com/matrix-org/gomatrixserverlib", false},
		{"userserver", "database/sql", false},
		{"storage", "parley/storage/sqldb", true},
		{"storage", "parley/internal/matrixerr", false},
		{"storage", "parley/storage/storagetest", false},
		{"storage", "github.com/lib/pq", false},
		{"storage/sqldb", "github.com/lib/pq", true},
		{"storage/sqldb", "parley/storage", false},
		{"internal/id", "parley/internal/matrixerr", false},
		{"internal/id", "log", false},
		{"internal/id", "log/slog", true},
		{"roomserver", "testing", false},
		{"test/harness", "parley/internal/id", true},
		{"test/harness", "parley/storage", false},
		{"storage", "parley/test/harness", false},
		{"surprise", "parley/internal/id", false},
	} {
		if why := forbidden(c.pkg, c.path); (why == "") != c.may {
			t.Errorf("%s imports %s: got %q, want that it may: %v", c.pkg, c.path, why, c.may)
		}
	}
}

func TestEveryRuleHasAReason(t *testing.T) {
	for _, line := range tree {
		if line.why == "" {
			t.Errorf("the line of %s in the import tree has no reason", line.pkg)
		}
	}
	for _, b := range borders {
		if b.why == "" || (b.only == nil) == (b.never == nil) {
			t.Errorf("the border of %s needs a reason, and either only or never", b.pkg)
		}
	}
}
