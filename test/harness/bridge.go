package harness

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// Bridge is an application service, as mautrix-go makes them, that listens on loopback. Its users' names begin with
// ghost_, its rooms' aliases with bridged_, both on any server; its bot is called bridgebot.
type Bridge struct {
	*appservice.AppService
	// Asked answers when the server asks for a user or an alias; nil for that there is none.
	Asked func(name string) bool

	t      testing.TB
	file   string
	server *httptest.Server
	away   atomic.Bool
	done   chan struct{}

	machine  chan Machine
	mu       sync.Mutex
	events   []*event.Event
	attempts []string // the names of the transactions, each time that one came
}

// NewBridge makes a bridge that no server knows yet: the server's settings need what Settings gives.
func NewBridge(t testing.TB) *Bridge {
	t.Helper()
	b := &Bridge{t: t, done: make(chan struct{}), machine: make(chan Machine), AppService: appservice.Create()}
	b.server = httptest.NewServer(http.HandlerFunc(b.serve))
	r := appservice.CreateRegistration()
	r.ID, r.URL, r.SenderLocalpart = "bridge", b.server.URL, "bridgebot"
	r.RateLimited = new(bool)
	r.Namespaces.UserIDs.Register(regexp.MustCompile("@ghost_.*"), true)
	r.Namespaces.RoomAliases.Register(regexp.MustCompile("#bridged_.*"), true)
	r.Protocols = []string{"pigeon"}
	r.EphemeralEvents, r.MSC3202, r.MSC4190 = true, true, true
	b.Registration, b.QueryHandler = r, b
	b.file = filepath.Join(t.TempDir(), "bridge.yaml")
	if err := r.Save(b.file); err != nil {
		t.Fatal(err)
	}
	b.Router.HandleFunc("GET /_matrix/app/v1/thirdparty/", b.thirdParty)
	var taking sync.WaitGroup
	taking.Go(b.take)
	t.Cleanup(func() {
		b.server.Close()
		close(b.done)
		taking.Wait()
	})
	return b
}

// Settings are those of a server that has the bridge.
func (b *Bridge) Settings() string { return "appservices: [" + b.file + "]\n" }

// Connect has the bridge use a server.
func (b *Bridge) Connect(s *Server) {
	b.t.Helper()
	b.HomeserverDomain = s.Name
	if s.Name == "" {
		b.HomeserverDomain = "localhost"
	}
	if err := b.SetHomeserverURL(s.URL); err != nil {
		b.t.Fatal(err)
	}
}

// As is one of the bridge's users, or its bot where name is "".
func (b *Bridge) As(name string) *appservice.IntentAPI {
	b.t.Helper()
	if name == "" {
		return b.BotIntent()
	}
	intent := b.Intent(id.NewUserID("ghost_"+name, b.HomeserverDomain))
	if err := intent.EnsureRegistered(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return intent
}

// Leave has the bridge take nothing, until Return.
func (b *Bridge) Leave() { b.away.Store(true) }

// Return ends what Leave began.
func (b *Bridge) Return() { b.away.Store(false) }

// Call calls the server, as a bridge does that has come back, so that it is sent what waits for it.
func (b *Bridge) Call() {
	b.t.Helper()
	if _, err := b.BotIntent().Whoami(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// Attempts are the names of the transactions that came, also of those that were not taken.
func (b *Bridge) Attempts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.attempts...)
}

// Got are the events that the bridge has taken, in their order.
func (b *Bridge) Got() []*event.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]*event.Event(nil), b.events...)
}

func (b *Bridge) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		b.mu.Lock()
		b.attempts = append(b.attempts, filepath.Base(r.URL.Path))
		b.mu.Unlock()
	}
	if b.away.Load() {
		http.Error(w, "{}", http.StatusServiceUnavailable)
		return
	}
	b.Router.ServeHTTP(w, r)
}

// Machine is what keeps the keys of one of the bridge's users, as mautrix-go's does.
type Machine interface {
	HandleToDeviceEvent(ctx context.Context, e *event.Event)
	HandleOTKCounts(ctx context.Context, counts *mautrix.OTKCount)
	HandleDeviceLists(ctx context.Context, changed *mautrix.DeviceLists, since string)
	HandleMemberEvent(ctx context.Context, e *event.Event)
}

// Attach has a machine get what the bridge is sent from now on.
func (b *Bridge) Attach(m Machine) { b.machine <- m }

// take takes what the bridge is sent until the test ends.
func (b *Bridge) take() {
	ctx := context.Background()
	var machine Machine
	for {
		select {
		case machine = <-b.machine:
		case e := <-b.Events:
			if machine != nil && e.Type == event.StateMember {
				machine.HandleMemberEvent(ctx, e)
			}
			b.mu.Lock()
			b.events = append(b.events, e)
			b.mu.Unlock()
		case e := <-b.ToDeviceEvents:
			if machine != nil {
				machine.HandleToDeviceEvent(ctx, e)
			}
		case counts := <-b.OTKCounts:
			if machine != nil {
				machine.HandleOTKCounts(ctx, counts)
			}
		case lists := <-b.DeviceLists:
			if machine != nil {
				machine.HandleDeviceLists(ctx, lists, "")
			}
		case <-b.done:
			return
		}
	}
}

// QueryAlias says whether there is a room of that alias now.
func (b *Bridge) QueryAlias(alias id.RoomAlias) bool { return b.Asked != nil && b.Asked(string(alias)) }

// QueryUser says whether there is a user of that name now.
func (b *Bridge) QueryUser(user id.UserID) bool { return b.Asked != nil && b.Asked(string(user)) }

// thirdParty answers what the bridge knows of its network.
func (b *Bridge) thirdParty(w http.ResponseWriter, r *http.Request) {
	if !b.CheckServerToken(w, r) {
		return
	}
	answer := `[{"alias":"#bridged_loft:` + b.HomeserverDomain + `","protocol":"pigeon","fields":{"loft":"1"}}]`
	switch {
	case filepath.Base(r.URL.Path) == "user" || filepath.Base(filepath.Dir(r.URL.Path)) == "user":
		answer = `[{"userid":"@ghost_bird:` + b.HomeserverDomain + `","protocol":"pigeon","fields":{"ring":"7"}}]`
	case filepath.Base(filepath.Dir(r.URL.Path)) == "protocol":
		answer = `{"user_fields":["ring"],"location_fields":["loft"],"icon":"mxc://example.org/pigeon",
			"field_types":{"ring":{"regexp":"[0-9]+","placeholder":"7"},"loft":{"regexp":"[0-9]+","placeholder":"1"}},
			"instances":[{"network_id":"post","desc":"Post","fields":{}}]}`
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write([]byte(answer))
}
