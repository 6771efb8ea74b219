package sender

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"parley/internal/id"
	"parley/internal/serverapi"
	"parley/internal/stream"
	"parley/storage"
)

const (
	// maxPassing bounds what waits for one server that is soon old; what comes beyond it is
	// dropped.
	maxPassing = 1000
	// maxPresencePush bounds the users whose presence is in one EDU.
	maxPresencePush = 100
	// maxGreeted bounds the users whose presence a server is told when it comes to a room.
	maxGreeted = 500
)

// passing is what waits for servers and is soon old. Newer news takes the place of older of the
// same kind: that somebody types, is there, has read.
type passing struct {
	mu      sync.Mutex
	servers map[id.ServerName]map[passingKey]*news
	// lately are the servers that were sent to for this, and that are not again before the others' turn.
	lately map[id.ServerName]bool
	serial uint64
	life   string // tells the serials of one process from those of another
}

type passingKey struct {
	kind   stream.Kind
	room   id.RoomID
	user   id.UserID
	thread string
}

// news is one piece, shared by all servers that are to get it.
type news struct {
	passingKey
	serial uint64
	// edu is the content of an EDU for typing, an entry of one's push for presence.
	edu json.RawMessage
	// receipt is set for a receipt.
	receipt *storage.Receipt
}

func newPassing() *passing {
	return &passing{servers: make(map[id.ServerName]map[passingKey]*news), lately: make(map[id.ServerName]bool), life: rand.Text()[:8]}
}

// put has servers get news, and gives those that get it at once.
func (p *passing) put(n *news, servers []id.ServerName) (now []id.ServerName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serial++
	n.serial = p.serial
	for _, server := range servers {
		all := p.servers[server]
		if all == nil {
			all = make(map[passingKey]*news)
			p.servers[server] = all
		}
		if _, ok := all[n.passingKey]; ok || len(all) < maxPassing {
			all[n.passingKey] = n
		}
		if !p.lately[server] {
			p.lately[server] = true
			now = append(now, server)
		}
	}
	return now
}

// turn gives the servers for which there is something, whose turn it is now.
func (p *passing) turn() []id.ServerName {
	p.mu.Lock()
	defer p.mu.Unlock()
	waiting := slices.Collect(maps.Keys(p.servers))
	clear(p.lately)
	for _, server := range waiting {
		p.lately[server] = true
	}
	return waiting
}

// take takes up to limit pieces, the oldest first. more says that there are others.
func (p *passing) take(server id.ServerName, limit int) (out []*news, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.servers[server]
	out = slices.SortedFunc(maps.Values(all), func(a, b *news) int { return cmp.Compare(a.serial, b.serial) })
	if len(out) > limit {
		out, more = out[:limit], true
	}
	for _, n := range out {
		delete(all, n.passingKey)
	}
	if len(all) == 0 {
		delete(p.servers, server)
	}
	return out, more
}

// drop forgets what waits for a server that can't be reached.
func (p *passing) drop(server id.ServerName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.servers, server)
}

// count is how many pieces wait.
func (p *passing) count() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, all := range p.servers {
		n += len(all)
	}
	return n
}

// tell has servers get news, but for those that can't be reached.
func (s *Sender) tell(ctx context.Context, n *news, servers []id.ServerName) error {
	var to []id.ServerName
	for _, server := range servers {
		if server == s.o.ServerName || !s.o.Allowed(server) || s.queue.Failing(string(server)) {
			continue
		}
		if n.room != "" {
			if ok, err := s.o.Rooms.ServerAllowed(ctx, n.room, server); err != nil {
				return err
			} else if !ok {
				continue
			}
		}
		to = append(to, server)
	}
	for _, server := range s.passing.put(n, to) {
		s.queue.Poke(string(server))
	}
	return nil
}

// passOn sends from time to time what was not sent at once, until ctx is done.
func (s *Sender) passOn(ctx context.Context) {
	tick := time.NewTicker(s.o.PassingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, server := range s.passing.turn() {
			s.queue.Poke(string(server))
		}
	}
}

// hearTyping has the servers of a room learn who types.
//
// spec: server-server-api.md#typing-notifications
func (s *Sender) hearTyping(ctx context.Context, n *stream.Notice) error {
	servers, err := s.servers.in(ctx, s.o.DB, n.Room)
	if err != nil || len(servers) == 0 {
		return err
	}
	var body struct {
		Timeout int64 `json:"timeout"`
	}
	if err := json.Unmarshal(n.Body, &body); err != nil {
		return err
	}
	edu := raw(map[string]any{"room_id": n.Room, "user_id": n.User, "typing": body.Timeout > 0})
	return s.tell(ctx, &news{passingKey: passingKey{kind: stream.Typing, room: n.Room, user: n.User}, edu: edu}, servers)
}

// hearPresence has the servers that share a room with a user learn of their presence.
//
// spec: server-server-api.md#presence
func (s *Sender) hearPresence(ctx context.Context, n *stream.Notice) error {
	if s.o.Presence == nil {
		return nil // other servers are told of none
	}
	servers, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) ([]id.ServerName, error) { return tx.ListServersOfUser(n.User) })
	if err != nil || len(servers) == 0 {
		return err
	}
	edu, err := presenceOf(n)
	if err != nil {
		return err
	}
	return s.tell(ctx, &news{passingKey: passingKey{kind: stream.Presence, user: n.User}, edu: edu}, servers)
}

// presenceOf makes an entry of an m.presence EDU from a notice.
func presenceOf(n *stream.Notice) (json.RawMessage, error) {
	var body struct {
		Presence        string `json:"presence"`
		StatusMsg       string `json:"status_msg"`
		LastActive      int64  `json:"last_active_ts"`
		CurrentlyActive bool   `json:"currently_active"`
	}
	if err := json.Unmarshal(n.Body, &body); err != nil {
		return nil, err
	}
	return presence(n.User, body.Presence, body.StatusMsg, body.LastActive, body.CurrentlyActive), nil
}

func presence(user id.UserID, state, status string, lastActive int64, currently bool) json.RawMessage {
	fields := map[string]any{
		"user_id": user, "presence": state,
		"last_active_ago": max(0, time.Now().UnixMilli()-lastActive), "currently_active": currently,
	}
	if status != "" {
		fields["status_msg"] = status
	}
	return raw(fields)
}

// Presence is how a user shows themselves.
type Presence struct {
	State      string
	StatusMsg  string
	LastActive time.Time
	// CurrentlyActive says that LastActive is not worth following for now.
	CurrentlyActive bool
}

// greet tells of presence where somebody joined a room: the room's servers of a user of ours, and
// the server of another user of ours who are there.
func (s *Sender) greet(ctx context.Context, n *stream.Notice) error {
	if s.o.Presence == nil {
		return nil
	}
	var newcomers []id.ServerName
	var ours []id.UserID
	for _, user := range n.Joined {
		if user.Server() == s.o.ServerName {
			ours = append(ours, user)
		} else if !slices.Contains(newcomers, user.Server()) && len(newcomers) < maxGreeted {
			newcomers = append(newcomers, user.Server())
		}
	}
	servers, err := s.servers.in(ctx, s.o.DB, n.Room)
	if err != nil || len(servers) == 0 {
		return err
	}
	show := func(user id.UserID, to []id.ServerName) error {
		p := s.o.Presence(user)
		if p.State == "offline" {
			return nil
		}
		edu := presence(user, p.State, p.StatusMsg, p.LastActive.UnixMilli(), p.CurrentlyActive)
		return s.tell(ctx, &news{passingKey: passingKey{kind: stream.Presence, user: user}, edu: edu}, to)
	}
	for _, user := range ours {
		if err := show(user, servers); err != nil {
			return err
		}
	}
	if len(newcomers) == 0 {
		return nil
	}
	members, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) ([]id.UserID, error) {
		r, err := tx.GetRoom(n.Room)
		if err != nil {
			return nil, err
		}
		return tx.ListMembers(r.NID, "join", true)
	})
	if err != nil {
		return err
	}
	for _, user := range members[:min(len(members), maxGreeted)] {
		if err := show(user, newcomers); err != nil {
			return err
		}
	}
	return nil
}

// hearReceipt has the servers of a room learn how far a user has read.
//
// spec: server-server-api.md#receipts
func (s *Sender) hearReceipt(ctx context.Context, n *stream.Notice) error {
	servers, err := s.servers.in(ctx, s.o.DB, n.Room)
	if err != nil || len(servers) == 0 {
		return err
	}
	receipts, err := storage.Get(ctx, s.o.DB, func(tx *storage.Tx) ([]storage.Receipt, error) {
		r, err := tx.GetRoom(n.Room)
		if err != nil {
			return nil, err
		}
		return tx.ListReceiptsOfUser(r.NID, n.User)
	})
	if err != nil {
		return err
	}
	for i := range receipts {
		r := &receipts[i]
		// What has changed since then has a notice of its own.
		if r.Pos != n.Pos || r.Type != storage.ReceiptRead {
			continue
		}
		key := passingKey{kind: stream.Receipt, room: n.Room, user: n.User, thread: r.Thread}
		if err := s.tell(ctx, &news{passingKey: key, receipt: r}, servers); err != nil {
			return err
		}
	}
	return nil
}

// edus makes EDUs of news, the newer of which come later. Presences go into few, receipts into
// as few as they can: one has one receipt of a user in each room.
func edus(all []*news) []serverapi.EDU {
	var out []serverapi.EDU
	var present []json.RawMessage
	type place struct {
		room id.RoomID
		user id.UserID
	}
	type data struct {
		TS     int64  `json:"ts"`
		Thread string `json:"thread_id,omitempty"`
	}
	type entry struct {
		Data   data         `json:"data"`
		Events []id.EventID `json:"event_ids"`
	}
	type readers map[string]map[id.UserID]entry
	var receipts []map[id.RoomID]readers
	times := make(map[place]int)
	for _, n := range all {
		switch n.kind {
		case stream.Typing:
			out = append(out, serverapi.EDU{Type: "m.typing", Content: n.edu})
		case stream.Presence:
			present = append(present, n.edu)
		case stream.Receipt:
			at := place{n.room, n.user}
			i := times[at]
			times[at]++
			if i == len(receipts) {
				receipts = append(receipts, make(map[id.RoomID]readers))
			}
			in := receipts[i][n.room]
			if in == nil {
				in = readers{storage.ReceiptRead: make(map[id.UserID]entry)}
				receipts[i][n.room] = in
			}
			in[storage.ReceiptRead][n.user] = entry{data{n.receipt.TS, n.receipt.Thread}, []id.EventID{n.receipt.Event}}
		}
	}
	for _, r := range receipts {
		out = append(out, serverapi.EDU{Type: "m.receipt", Content: raw(r)})
	}
	for push := range slices.Chunk(present, maxPresencePush) {
		out = append(out, serverapi.EDU{Type: "m.presence", Content: raw(map[string]any{"push": push})})
	}
	return out
}
