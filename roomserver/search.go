package roomserver

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/internal/words"
	"parley/storage"
)

// searchKeys say which events can be searched for, and where in their content the words stand.
//
// spec: client-server-api/modules/search.md#search-categories
var searchKeys = map[string]string{
	"m.room.message": "content.body",
	spec.MRoomName:   "content.name",
	spec.MRoomTopic:  "content.topic",
}

const (
	// searchBatch is how many events are taken into the search at once.
	searchBatch = 500
	// searchEvery is how often new events are taken in when nobody searches.
	searchEvery = 2 * time.Second
	// maxWords is how many words one may search for.
	maxWords = 20
	// maxFound bounds the events that a search counts.
	maxFound = 10_000
	// maxSearchScan bounds the events found that one request looks at.
	maxSearchScan = 2000
)

// KeepSearch takes new events into the search until ctx is done.
func (s *Server) KeepSearch(ctx context.Context) {
	tick := time.NewTicker(searchEvery)
	defer tick.Stop()
	for {
		if err := s.catchUpSearch(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("take events into the search", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// catchUpSearch takes in all that was in the log when it was called.
func (s *Server) catchUpSearch(ctx context.Context) error {
	var to id.Pos
	for {
		var done bool
		err := s.db.Read(ctx, func(tx *storage.Tx) error {
			pos, err := tx.GetPos()
			if err != nil {
				return err
			}
			to = max(to, pos)
			cursor, err := tx.GetSearchCursor()
			if err != nil {
				return err
			}
			pending, err := tx.ListSearchPending(1)
			done = cursor >= to && len(pending) == 0
			return err
		})
		if err != nil || done {
			return err
		}
		if err := s.db.Write(ctx, func(tx *storage.Tx) error { return takeIntoSearch(tx, to) }); err != nil {
			return err
		}
	}
}

// takeIntoSearch takes in some events of the log up to a position, and some of history.
func takeIntoSearch(tx *storage.Tx, to id.Pos) error {
	cursor, err := tx.GetSearchCursor()
	if err != nil {
		return err
	}
	entries, err := tx.ListLog(cursor, to, searchBatch)
	if err != nil {
		return err
	}
	pending, err := tx.ListSearchPending(searchBatch)
	if err != nil {
		return err
	}
	nids := slices.Clone(pending)
	for _, e := range entries {
		nids = append(nids, e.Event)
	}
	rows, err := tx.ListEventsByNID(nids)
	if err != nil {
		return err
	}
	for i := range rows {
		if found, ok := searchable(&rows[i]); ok {
			if err := tx.InsertSearch(found); err != nil {
				return err
			}
		}
	}
	if err := tx.DeleteSearchPending(pending); err != nil {
		return err
	}
	if len(entries) == searchBatch {
		to = entries[len(entries)-1].Pos
	}
	return tx.UpdateSearchCursor(max(cursor, to))
}

// searchable is what of an event can be searched for.
func searchable(e *storage.Event) (*storage.Searchable, bool) {
	f := gjson.GetManyBytes(e.JSON, "type", "origin_server_ts")
	key := searchKeys[f[0].Str]
	if key == "" || e.RedactedBy != 0 || e.Status != storage.Accepted || e.Expired {
		return nil, false
	}
	text := words.Split(gjson.GetBytes(e.JSON, key).Str)
	return &storage.Searchable{Event: e.NID, Room: e.Room, Key: key, Words: strings.Join(text, " "), TS: f[1].Int()}, len(text) > 0
}

// SearchRequest asks for events with words in them.
type SearchRequest struct {
	Term string
	// Keys are where the words may stand; none stand for all.
	Keys []string
	// Rooms are where to search, none for all that the reader is or was in. NotRooms are left out.
	Rooms, NotRooms []id.RoomID
	// Match is a filter of events, nil for all.
	Match func(room id.RoomID, raw []byte) bool
	// ByRank puts first what fits best, else what is newest.
	ByRank bool
	// From is where to go on.
	From  SearchFrom
	Limit int
	// Before and After are how many events around each to give, below 0 for no context at all.
	Before, After int
	// Profiles asks for the profiles of who sent events, and State for the state of rooms.
	Profiles, State bool
	Reader          Reader
}

// SearchFrom is a place among what was found.
type SearchFrom struct {
	Skip  int              `json:"s,omitempty"`
	TS    int64            `json:"t,omitempty"`
	Event storage.EventNID `json:"e,omitempty"`
}

// SearchResults are events that were found.
type SearchResults struct {
	Count      int
	Highlights []string
	Results    []SearchResult
	State      map[id.RoomID][]json.RawMessage
	// Next is where to go on, nil where nothing was found.
	Next *SearchFrom
}

// Profile is a member's, as a search shows it.
//
// spec: client-server-api/modules/search.md#post_matrixclientv3search
type Profile struct {
	DisplayName string `json:"displayname,omitempty"`
	AvatarURL   string `json:"avatar_url,omitempty"`
}

// SearchResult is one event that was found.
type SearchResult struct {
	Rank   float64
	Room   id.RoomID
	Sender id.UserID
	Event  id.EventID
	Result json.RawMessage
	// Context is what is around it; nil where it was not asked for.
	Context *EventContext
	// Profiles are the profiles of who sent these events.
	Profiles map[id.UserID]Profile
}

// Search finds events in rooms that the reader is in, and in those that they left as far as
// they may see them.
//
// spec: client-server-api/modules/search.md#post_matrixclientv3search
func (s *Server) Search(ctx context.Context, r SearchRequest) (*SearchResults, error) {
	out := &SearchResults{Highlights: []string{}, Results: []SearchResult{}, State: map[id.RoomID][]json.RawMessage{}}
	wanted := words.Split(r.Term)
	wanted = wanted[:min(len(wanted), maxWords)]
	if len(wanted) == 0 {
		return out, nil
	}
	if err := s.catchUpSearch(ctx); err != nil {
		return nil, err
	}
	if len(r.Keys) == 0 {
		r.Keys = []string{"content.body", "content.name", "content.topic"}
	}
	return out, s.db.Read(ctx, func(tx *storage.Tx) error {
		f := &finding{Server: s, tx: tx, r: &r, out: out, words: wanted, views: make(map[storage.RoomNID]*View)}
		if err := f.openRooms(); err != nil || len(f.rooms) == 0 {
			return err
		}
		return f.find()
	})
}

// finding is one search in one snapshot.
type finding struct {
	*Server
	tx    *storage.Tx
	r     *SearchRequest
	out   *SearchResults
	words []string
	rooms []storage.RoomNID
	views map[storage.RoomNID]*View
}

// openRooms finds out where to search.
func (f *finding) openRooms() error {
	all, err := f.tx.ListMemberships(f.r.Reader.User)
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.Forgotten || m.Membership != spec.Join && m.Membership != spec.Leave && m.Membership != spec.Ban ||
			f.r.Rooms != nil && !slices.Contains(f.r.Rooms, m.RoomID) || slices.Contains(f.r.NotRooms, m.RoomID) {
			continue
		}
		f.rooms = append(f.rooms, m.Room)
	}
	return nil
}

// view is what the reader may see of a room; nil for nothing.
func (f *finding) view(room storage.RoomNID) (*View, error) {
	v, ok := f.views[room]
	if ok {
		return v, nil
	}
	row, err := f.tx.GetRoomByNID(room)
	if err != nil {
		return nil, err
	}
	v, err = f.ViewRoom(f.tx, f.r.Reader.User, row)
	if missing, err := notFound(err); err != nil {
		return nil, err
	} else if missing {
		v = nil
	}
	f.views[room] = v
	return v, nil
}

// find goes through what was found until there is enough that the reader wants and may see.
func (f *finding) find() error {
	q := storage.SearchQuery{Rooms: f.rooms, Keys: f.r.Keys, Words: f.words, ByRank: f.r.ByRank, Skip: f.r.From.Skip,
		Before: storage.SearchPlace{TS: f.r.From.TS, Event: f.r.From.Event}, Limit: f.r.Limit + 1}
	if q.Before == (storage.SearchPlace{}) {
		q.Before.TS = 1 << 62
	}
	seen := make(map[string]bool)
	for scanned := 0; scanned < maxSearchScan; scanned += q.Limit {
		hits, count, err := f.tx.ListSearch(&q, maxFound)
		if err != nil {
			return err
		}
		f.out.Count = count
		for i := range hits {
			if len(f.out.Results) == f.r.Limit {
				f.more(&q)
				return nil
			}
			q.Skip++
			q.Before = storage.SearchPlace{TS: hits[i].TS, Event: hits[i].NID}
			if err := f.add(&hits[i], seen); err != nil {
				return err
			}
		}
		if len(hits) < q.Limit {
			// Some clients want a way on as long as there is anything.
			if len(f.out.Results) > 0 {
				f.more(&q)
			}
			return nil
		}
	}
	f.more(&q)
	return nil
}

// more says where to go on.
func (f *finding) more(q *storage.SearchQuery) {
	f.out.Next = &SearchFrom{TS: q.Before.TS, Event: q.Before.Event}
	if q.ByRank {
		f.out.Next = &SearchFrom{Skip: q.Skip}
	}
}

// add adds an event that was found, if the reader wants and may see it.
func (f *finding) add(hit *storage.SearchHit, seen map[string]bool) error {
	v, err := f.view(hit.Room)
	if err != nil || v == nil {
		return err
	}
	if f.r.Match != nil && !f.r.Match(v.Room.ID, hit.JSON) {
		return nil
	}
	visible, err := v.Visible(&hit.TimelineEvent)
	if err != nil || !visible {
		return err
	}
	if erased, err := v.erased([]storage.Event{hit.Event}); err != nil || erased[hit.NID] {
		return err
	}
	fields := gjson.GetManyBytes(hit.JSON, "type", "sender")
	for _, word := range words.Split(gjson.GetBytes(hit.JSON, searchKeys[fields[0].Str]).Str) {
		if !seen[word] && slices.ContainsFunc(f.words, func(w string) bool { return strings.HasPrefix(word, w) }) {
			seen[word] = true
			f.out.Highlights = append(f.out.Highlights, word)
		}
	}
	rendered, err := f.Render(f.tx, v, &v.Room, []storage.Event{hit.Event}, f.r.Reader)
	if err != nil {
		return err
	}
	result := SearchResult{Rank: hit.Rank, Room: v.Room.ID, Sender: id.UserID(fields[1].Str), Event: hit.ID, Result: rendered[0]}
	if f.r.Before >= 0 && f.r.After >= 0 {
		if err := f.addContext(v, hit, &result); err != nil {
			return err
		}
	}
	f.out.Results = append(f.out.Results, result)
	if f.r.State && f.out.State[v.Room.ID] == nil {
		return f.addState(v)
	}
	return nil
}

// addContext adds what is around an event.
func (f *finding) addContext(v *View, hit *storage.SearchHit, result *SearchResult) error {
	c := &EventContext{Start: hit.Ord - 1, End: hit.Ord}
	users := []storage.Event{hit.Event}
	for _, side := range []struct {
		page PageRequest
		into *[]json.RawMessage
	}{
		{PageRequest{From: &c.Start, Backward: true, Limit: f.r.Before}, &c.Before},
		{PageRequest{From: &c.End, Limit: f.r.After}, &c.After},
	} {
		*side.into = []json.RawMessage{}
		if side.page.Limit == 0 {
			continue
		}
		from := *side.page.From
		side.page.From = &from
		rows, err := f.Timeline(f.tx, v, &side.page)
		if err != nil {
			return err
		}
		if n := len(rows); n > 0 {
			if side.page.Backward {
				c.Start = rows[n-1].Ord - 1
			} else {
				c.End = rows[n-1].Ord
			}
		}
		events := plain(rows)
		users = append(users, events...)
		if *side.into, err = f.Render(f.tx, v, &v.Room, events, f.r.Reader); err != nil {
			return err
		}
	}
	result.Context = c
	if !f.r.Profiles {
		return nil
	}
	members, err := f.MembersAt(f.tx, hit.Root, senders(users))
	result.Profiles = make(map[id.UserID]Profile, len(members))
	for i := range members {
		m := gjson.GetManyBytes(members[i].JSON, "state_key", "content.displayname", "content.avatar_url")
		var p Profile
		if m[1].Type == gjson.String {
			p.DisplayName = m[1].Str
		}
		if strings.HasPrefix(m[2].Str, "mxc://") {
			p.AvatarURL = m[2].Str
		}
		result.Profiles[id.UserID(m[0].Str)] = p
	}
	return err
}

// addState adds the state of a room, as the reader may see it.
func (f *finding) addState(v *View) error {
	root, ok, err := v.StateRoot()
	if err != nil || !ok {
		return err
	}
	events, err := f.StateEvents(f.tx, root, true)
	if err != nil {
		return err
	}
	f.out.State[v.Room.ID], err = f.Render(f.tx, nil, &v.Room, events, f.r.Reader)
	return err
}
