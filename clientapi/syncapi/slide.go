package syncapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"parley/clientapi/syncapi/sliding"
	"parley/internal/filter"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/internal/token"
	"parley/storage"
)

const (
	// keepConnections bounds the connections of a device that are remembered, and forgetConnection
	// is for how long they are if nothing is told on them.
	keepConnections  = 16
	forgetConnection = 30 * 24 * time.Hour
	// cachedConnections bounds the states of connections that are kept ready, and cachedRooms the
	// rooms in one that is.
	cachedConnections = 4096
	cachedRooms       = 256
)

// slidingRequest is sliding sync in its newer dialect.
type slidingRequest struct {
	Body json.RawMessage `body:"raw"`
}

// oldSlidingRequest is sliding sync in its older dialect, with some parameters in the query.
type oldSlidingRequest struct {
	Pos         string          `query:"pos"`
	Timeout     int64           `query:"timeout"`
	SetPresence string          `query:"set_presence"`
	Body        json.RawMessage `body:"raw"`
}

func (a *API) slidingSync(ctx context.Context, r *httpapi.Request, in *slidingRequest, w http.ResponseWriter) error {
	parsed, err := sliding.Parse(in.Body, r.Caller.User, false)
	if err != nil {
		return err
	}
	return a.slide(ctx, r.Caller, parsed, w)
}

func (a *API) oldSlidingSync(ctx context.Context, r *httpapi.Request, in *oldSlidingRequest, w http.ResponseWriter) error {
	parsed, err := sliding.Parse(in.Body, r.Caller.User, true)
	if err != nil {
		return err
	}
	if in.Pos != "" {
		parsed.Pos = in.Pos
	}
	if in.Timeout != 0 {
		parsed.Timeout = in.Timeout
	}
	if in.SetPresence != "" {
		parsed.SetPresence = in.SetPresence
	}
	return a.slide(ctx, r.Caller, parsed, w)
}

// slide answers sliding sync. Where there is nothing to tell it waits, and then makes the
// answer anew from where the client is: nothing but an answer changes what the connection
// was told.
func (a *API) slide(ctx context.Context, c *httpapi.Caller, in *sliding.Request, w http.ResponseWriter) error {
	if err := checkPresence(in.SetPresence); err != nil {
		return err
	}
	conn, req, err := a.connection(ctx, c, in)
	if err != nil {
		return err
	}
	p := patience{user: req.user, presence: in.SetPresence, timeout: in.Timeout, atOnce: req.initial}
	return a.poll(ctx, p, func(last bool) (told bool, head stream.Mark, err error) {
		told, err = aside(func() (told bool, err error) {
			told, head, err = a.answerSliding(ctx, conn, req, in, w, last)
			return told, err
		})
		return told, head, err
	})
}

// connection is a client's connection as it is at the client's position.
type connection struct {
	// number is the number of state among those of the connection, 0 where no room was sent.
	number int64
	state  *sliding.State
}

// connectionKey names a state of a connection.
type connectionKey struct {
	device int64
	conn   string
	number int64
}

// errUnknownPos has a client begin anew.
var errUnknownPos = matrixerr.New(matrixerr.UnknownPos, "The position is not known, or not any more.").WithStatus(http.StatusBadRequest)

// connection finds the client's connection.
func (a *API) connection(ctx context.Context, c *httpapi.Caller, in *sliding.Request) (*connection, *request, error) {
	req := &request{user: c.User, deviceNID: c.DeviceNID, initial: in.Pos == "", filter: &filter.Filter{}}
	conn := &connection{state: &sliding.State{}}
	if req.initial {
		return conn, req, nil
	}
	pos, seq, where, err := token.ParseSliding(a.DB.Epoch(), a.Hub.Life(), in.Pos)
	if err != nil || pos < 0 || where.Device != c.DeviceNID {
		return nil, nil, errUnknownPos
	}
	req.since = stream.Mark{Pos: id.Pos(pos), Seq: seq}
	if conn.number = where.State; conn.number == 0 {
		return conn, req, nil
	}
	key := connectionKey{c.DeviceNID, in.ConnID, conn.number}
	if state, ok := a.connections.Get(key); ok {
		conn.state = state
		return conn, req, nil
	}
	row, err := storage.Get(ctx, a.DB, func(tx *storage.Tx) (storage.SlidingConnection, error) {
		return tx.GetSlidingConnection(c.DeviceNID, in.ConnID)
	})
	if missing, err := notFound(err); err != nil {
		return nil, nil, err
	} else if missing {
		return nil, nil, errUnknownPos
	}
	text := row.BaseState
	switch conn.number {
	case row.Base:
	case row.Next:
		text = row.NextState
	default:
		return nil, nil, errUnknownPos
	}
	if conn.state, err = sliding.ParseState(text); err != nil {
		return nil, nil, err
	}
	a.remember(key, conn.state)
	return conn, req, nil
}

// remember keeps a state of a connection, which is not changed any more.
func (a *API) remember(key connectionKey, s *sliding.State) {
	if len(s.Rooms) <= cachedRooms {
		a.connections.Add(key, s)
	}
}

// save makes a state one of the connection, as that which the answer from conn makes, and
// gives its number. The client may ask from either of the two again.
func (a *API) save(ctx context.Context, req *request, name string, conn *connection, s *sliding.State) (number int64, err error) {
	text := s.Append(nil)
	now := a.Now()
	err = a.DB.Write(ctx, func(tx *storage.Tx) error {
		row, err := tx.GetSlidingConnection(req.deviceNID, name)
		missing, err := notFound(err)
		switch {
		case err != nil:
			return err
		case conn.number == 0:
			row.Base, row.BaseState = 0, nil
		case missing:
			return errUnknownPos
		case conn.number == row.Next:
			row.Base, row.BaseState = row.Next, row.NextState
		case conn.number != row.Base:
			return errUnknownPos
		}
		row.Last++
		row.Next, row.NextState = row.Last, text
		number = row.Last
		if err := tx.InsertSlidingConnection(req.deviceNID, name, &row, now.UnixMilli()); err != nil {
			return err
		}
		return tx.DeleteSlidingConnections(req.deviceNID, now.Add(-forgetConnection).UnixMilli(), keepConnections)
	})
	if err == nil {
		a.remember(connectionKey{req.deviceNID, name, number}, s)
	}
	return number, err
}

// slider makes one answer of sliding sync from one snapshot.
type slider struct {
	builder
	in *sliding.Request
	// state is what the client was told, changed what this answer changes of it.
	state   *sliding.State
	changed *sliding.State
	// wanted are the rooms that are in sight, those with the newest activity first.
	wanted []*wantedRoom
	byRoom map[id.RoomID]*wantedRoom
	counts map[string]int
	direct map[id.RoomID]bool
	// shown are the events of the timelines of the answer.
	shown map[id.EventID]bool
	// threaded is how many of the new events of a thread are among them, by the thread's root.
	threaded map[id.EventID]int
	// stirred are the rooms that the notices say there is news of.
	stirred []storage.RoomNID
	// toDeviceSince is up to where the device has its messages.
	toDeviceSince id.Pos
	// joined are the user's rooms that had news since the client was told, for extensions that ask
	// for all rooms.
	joined []*listedRoom
}

// wantedRoom is a room that a client asked for.
type wantedRoom struct {
	*listedRoom
	config     *sliding.Config
	text       string
	lists      []string
	subscribed bool
	// since is what the client was told before, told says of which of the extensions.
	since id.Pos
	known bool
	flags sliding.Flags
	sent  bool
}

// answerSliding is answer for sliding sync; head is from where to wait for news where it
// has told nothing.
func (a *API) answerSliding(ctx context.Context, conn *connection, req *request, in *sliding.Request, w http.ResponseWriter, last bool) (told bool, head stream.Mark, err error) {
	o := newOut(w)
	defer o.free()
	s := slider{
		builder: builder{API: a, req: req, out: o, now: a.Now().UnixMilli(), last: last || req.initial},
		in:      in, state: conn.state, shown: make(map[id.EventID]bool), threaded: make(map[id.EventID]int),
	}
	known := false
	if e := in.Extensions.ToDevice; e != nil && e.Since != "" {
		pos, err := token.Parse(a.DB.Epoch(), e.Since)
		if err != nil && !errors.Is(err, token.ErrEpoch) {
			return false, head, matrixerr.New(matrixerr.InvalidParam, "extensions.to_device.since is not a token that this server gave out")
		}
		s.toDeviceSince = id.Pos(max(pos, 0))
	}
	r := a.rosters.get(req.user)
	r.mu.Lock()
	locked := true
	unlock := func() {
		if locked {
			locked = false
			a.rosters.weigh(req.user, r)
			r.mu.Unlock()
		}
	}
	defer unlock()
	var news bool
	err = a.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		s.tx = tx
		if err := s.begin(); err != nil {
			return err
		}
		pos, err := tx.GetPos()
		if err != nil {
			return err
		}
		if err := r.update(&s.builder, pos); err != nil {
			r.read = false // part of it may be new, and part old
			return err
		}
		if err := s.look(r); err != nil {
			return err
		}
		unlock()
		news, err = s.write()
		known = s.known
		return err
	})
	if err == nil && s.toDeviceSince > 0 {
		err = a.acknowledgeUpTo(ctx, req.deviceNID, s.toDeviceSince, known)
	}
	if err != nil {
		return o.sent, s.head, err
	}
	if !news && !s.builder.last {
		return false, s.head, nil
	}
	number := conn.number
	if s.changed != nil {
		if number, err = a.save(ctx, req, in.ConnID, conn, s.changed); err != nil {
			return o.sent, s.head, err
		}
	}
	o.key("pos")
	o.open('"')
	o.buf = token.AppendSliding(o.buf, a.DB.Epoch(), int64(s.head.Pos), a.Hub.Life(), s.head.Seq,
		token.Connection{Device: req.deviceNID, State: number})
	o.close('"')
	o.close('}')
	w.Header()["Content-Type"] = headerJSON
	return true, s.head, o.flush()
}

// look finds out which rooms are in sight.
func (s *slider) look(r *roster) error {
	for i := range s.notices {
		if n := &s.notices[i]; n.Kind == stream.Event || n.Kind == stream.Receipt {
			if l := r.rooms[n.Room]; l != nil {
				s.stirred = append(s.stirred, l.nid)
			}
		}
	}
	s.byRoom = make(map[id.RoomID]*wantedRoom)
	s.counts = make(map[string]int, len(s.in.Lists))
	s.direct = r.direct
	names := make([]string, 0, len(s.in.Lists))
	for name := range s.in.Lists {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := s.lookAt(r, name, s.in.Lists[name]); err != nil {
			return err
		}
	}
	for room, config := range s.in.Subscriptions {
		l := r.rooms[room]
		if l == nil {
			continue
		}
		ok, err := s.listable(l, true)
		if err != nil {
			return err
		}
		if ok {
			s.want(l, config).subscribed = true
		}
	}
	s.wanted = make([]*wantedRoom, 0, len(s.byRoom))
	for _, room := range s.byRoom {
		s.wanted = append(s.wanted, room)
	}
	slices.SortFunc(s.wanted, func(x, y *wantedRoom) int { return compareListed(x.listedRoom, y.listedRoom) })
	if s.in.Extensions.Threads != nil {
		for _, l := range r.order {
			if l.membership == "join" && l.activity > storage.Ord(s.from()) {
				s.joined = append(s.joined, l)
			}
		}
	}
	return nil
}

// lookAt finds the rooms of one list that are in its window.
func (s *slider) lookAt(r *roster, name string, l *sliding.List) error {
	f, err := s.listFilter(r, &l.Filter)
	if err != nil {
		return err
	}
	n := 0
	for _, room := range r.order {
		ok, err := s.listable(room, false)
		if err == nil && ok {
			ok, err = f.lets(&s.builder, room)
		}
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if l.Contains(n) {
			w := s.want(room, &l.Config)
			w.lists = append(w.lists, name)
		}
		n++
	}
	s.counts[name] = n
	return nil
}

// listable says whether the client may be told of a room at all.
func (s *slider) listable(room *listedRoom, subscribed bool) (bool, error) {
	if room.inviter != "" {
		if wanted, err := s.welcomes(room.inviter); err != nil || !wanted {
			return false, err
		}
	}
	if room.ifSent && !subscribed {
		_, ok := s.state.Rooms[room.nid]
		return ok, nil
	}
	return true, nil
}

// want notes that a room is in sight, and with what configuration.
func (s *slider) want(room *listedRoom, config *sliding.Config) *wantedRoom {
	w := s.byRoom[room.id]
	if w == nil {
		w = &wantedRoom{listedRoom: room, config: config}
		s.byRoom[room.id] = w
	} else if w.config != config {
		merged := *w.config
		merged.Merge(config)
		w.config = &merged
	}
	return w
}

// write writes the answer but for its position, and says whether there is news in it.
func (s *slider) write() (news bool, err error) {
	o := s.out
	o.open('{')
	if s.in.Lists != nil {
		o.key("lists")
		o.open('{')
		for name, n := range s.counts {
			o.anyKey(name)
			o.open('{')
			o.key("count")
			o.int(int64(n))
			o.close('}')
		}
		o.close('}')
	}
	o.key("rooms")
	o.open('{')
	texts := make(map[*sliding.Config]string)
	for _, room := range s.wanted {
		text, ok := texts[room.config]
		if !ok {
			text = room.config.State.Text()
			texts[room.config] = text
		}
		room.text = text
		told, err := s.room(room)
		if err != nil {
			return false, err
		}
		if told {
			news = true
			if err := o.rest(&s.spooled); err != nil {
				return false, err
			}
		}
	}
	o.close('}')
	more, err := s.extensions()
	if err != nil {
		return false, err
	}
	s.outOfSight()
	return news || more, nil
}

// set notes what the client was told of a room.
func (s *slider) set(nid storage.RoomNID, sent sliding.Sent, config string) {
	before, ok := s.state.Rooms[nid]
	if ok && before == sent && s.state.Config(before) == config {
		return
	}
	s.change()
	s.changed.Rooms[nid] = s.changed.WithConfig(sent, config)
}

// change has what the answer makes be another state than the one it goes out from.
func (s *slider) change() {
	if s.changed == nil {
		s.changed = s.state.Clone()
	}
}

// outOfSight notes of the rooms that the client was told of, and that it did not ask for, that
// it is not told of their news any more, where they have any.
func (s *slider) outOfSight() {
	if s.req.initial {
		return
	}
	from := s.from()
	if s.head.Pos <= from {
		return
	}
	inSight := make(map[storage.RoomNID]bool, len(s.wanted))
	for _, room := range s.wanted {
		inSight[room.nid] = true
	}
	mark := func(nid storage.RoomNID) {
		sent, ok := s.state.Rooms[nid]
		if !ok || sent.UpTo != 0 || inSight[nid] {
			return
		}
		sent.UpTo = from
		s.change()
		s.changed.Rooms[nid] = sent
	}
	if !s.known || s.hasNotice(stream.AccountData) {
		for nid := range s.state.Rooms {
			mark(nid)
		}
		return
	}
	for _, nid := range s.stirred {
		mark(nid)
	}
}
