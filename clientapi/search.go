package clientapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/tidwall/gjson"

	"parley/internal/filter"
	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/roomserver"
)

func (a *API) searchRoutes() httpapi.Table {
	return httpapi.Table{
		{Method: http.MethodPost, Path: v3 + "/search", Auth: httpapi.User, NeedBody: true, Rate: httpapi.RateSend, Handler: httpapi.Handle(a.search)},
	}
}

type searchRequest struct {
	NextBatch  string            `query:"next_batch"`
	Categories *searchCategories `json:"search_categories"`
}

type searchCategories struct {
	RoomEvents *searchCriteria `json:"room_events"`
}

type searchCriteria struct {
	Term         *string          `json:"search_term"`
	Keys         []string         `json:"keys"`
	Filter       json.RawMessage  `json:"filter"`
	OrderBy      string           `json:"order_by"`
	Context      *searchContext   `json:"event_context"`
	IncludeState bool             `json:"include_state"`
	Groupings    *searchGroupings `json:"groupings"`
}

type searchContext struct {
	Before   *int `json:"before_limit"`
	After    *int `json:"after_limit"`
	Profiles bool `json:"include_profile"`
}

type searchGroupings struct {
	GroupBy []struct {
		Key string `json:"key"`
	} `json:"group_by"`
}

type searchResponse struct {
	Categories struct {
		RoomEvents searchResults `json:"room_events"`
	} `json:"search_categories"`
}

type searchResults struct {
	Count      int                               `json:"count"`
	Highlights []string                          `json:"highlights"`
	Results    []searchResult                    `json:"results"`
	State      map[id.RoomID][]json.RawMessage   `json:"state,omitempty"`
	Groups     map[string]map[string]searchGroup `json:"groups,omitempty"`
	NextBatch  string                            `json:"next_batch,omitempty"`
}

type searchResult struct {
	Rank    float64              `json:"rank"`
	Result  json.RawMessage      `json:"result"`
	Context *searchResultContext `json:"context,omitempty"`
}

type searchResultContext struct {
	Start    string                           `json:"start"`
	End      string                           `json:"end"`
	Before   []json.RawMessage                `json:"events_before"`
	After    []json.RawMessage                `json:"events_after"`
	Profiles map[id.UserID]roomserver.Profile `json:"profile_info,omitempty"`
}

type searchGroup struct {
	NextBatch string       `json:"next_batch,omitempty"`
	Order     int          `json:"order"`
	Results   []id.EventID `json:"results"`
}

// searchToken is where to go on: in all that was found, or in one group of it.
type searchToken struct {
	Group string `json:"g,omitempty"`
	Key   string `json:"k,omitempty"`
	roomserver.SearchFrom
}

func (t searchToken) String() string {
	text, err := json.Marshal(t)
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func parseSearchToken(s string) (t searchToken, err error) {
	if s == "" {
		return t, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(text, &t)
	}
	if err != nil || t.Skip < 0 {
		return t, matrixerr.New(matrixerr.InvalidParam, "next_batch is not a token of this server.")
	}
	return t, nil
}

const (
	// searchPage is how many events a search gives where nothing is said, and maxSearchPage how
	// many at most; searchAround is how many around each where nothing is said, and
	// maxSearchAround at most.
	searchPage, maxSearchPage     = 10, 100
	searchAround, maxSearchAround = 5, 20
	// groups of what was found
	byRoom, bySender = "room_id", "sender"
)

// search finds events by their words.
//
// spec: client-server-api/modules/search.md#server-side-search
func (a *API) search(ctx context.Context, r *httpapi.Request, in *searchRequest) (*searchResponse, error) {
	if in.Categories == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "search_categories is missing.")
	}
	out := &searchResponse{}
	out.Categories.RoomEvents = searchResults{Highlights: []string{}, Results: []searchResult{}}
	c := in.Categories.RoomEvents
	if c == nil {
		return out, nil
	}
	q, err := a.searchQuery(r, c)
	if err != nil {
		return nil, err
	}
	from, err := parseSearchToken(in.NextBatch)
	if err != nil {
		return nil, err
	}
	q.From = from.SearchFrom
	if from.Group != "" {
		all := q.Match
		q.Match = func(room id.RoomID, raw []byte) bool {
			in := string(room) == from.Key
			if from.Group == bySender {
				in = gjson.GetBytes(raw, "sender").Str == from.Key
			}
			return in && (all == nil || all(room, raw))
		}
	}
	found, err := a.rooms.Search(ctx, *q)
	if err != nil {
		return nil, err
	}
	a.showFound(&out.Categories.RoomEvents, c, found)
	return out, nil
}

// searchQuery reads what is searched for.
func (a *API) searchQuery(r *httpapi.Request, c *searchCriteria) (*roomserver.SearchRequest, error) {
	if c.Term == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "search_term is missing.")
	}
	q := &roomserver.SearchRequest{Term: *c.Term, Keys: c.Keys, Limit: searchPage, Before: -1, After: -1, State: c.IncludeState, Reader: reader(r)}
	for _, key := range c.Keys {
		if key != "content.body" && key != "content.name" && key != "content.topic" {
			return nil, matrixerr.New(matrixerr.InvalidParam, "There is no key %.50q.", key)
		}
	}
	switch c.OrderBy {
	case "", "rank":
		q.ByRank = true
	case "recent":
	default:
		return nil, matrixerr.New(matrixerr.InvalidParam, `order_by must be "rank" or "recent".`)
	}
	if c.Groupings != nil {
		for _, g := range c.Groupings.GroupBy {
			if g.Key != byRoom && g.Key != bySender {
				return nil, matrixerr.New(matrixerr.InvalidParam, "There is no group %.50q.", g.Key)
			}
		}
	}
	if len(c.Filter) > 0 && string(c.Filter) != "null" {
		f, err := filter.ParseRoomEvents(c.Filter)
		if err != nil {
			return nil, err
		}
		if most := f.Most(0); most > 0 {
			q.Limit = min(most, maxSearchPage)
		}
		q.Rooms, q.NotRooms = f.Rooms, f.NotRooms
		if !f.Everything() {
			q.Match = func(room id.RoomID, raw []byte) bool { return matcher(f, room)(raw) }
		}
	}
	if e := c.Context; e != nil {
		q.Before, q.After, q.Profiles = around(e.Before), around(e.After), e.Profiles
		if q.Before < 0 || q.After < 0 {
			return nil, matrixerr.New(matrixerr.InvalidParam, "before_limit and after_limit must not be negative.")
		}
	}
	return q, nil
}

func around(limit *int) int {
	if limit == nil {
		return searchAround
	}
	return min(*limit, maxSearchAround)
}

// showFound gives what was found the form in which clients get it.
func (a *API) showFound(out *searchResults, c *searchCriteria, found *roomserver.SearchResults) {
	out.Count, out.Highlights = found.Count, found.Highlights
	for _, f := range found.Results {
		result := searchResult{Rank: f.Rank, Result: f.Result}
		if f.Context != nil {
			result.Context = &searchResultContext{a.token(f.Context.Start), a.token(f.Context.End), f.Context.Before, f.Context.After, f.Profiles}
		}
		out.Results = append(out.Results, result)
	}
	if c.IncludeState {
		out.State = found.State
	}
	if found.Next != nil {
		out.NextBatch = searchToken{SearchFrom: *found.Next}.String()
	}
	if c.Groupings == nil || len(c.Groupings.GroupBy) == 0 {
		return
	}
	out.Groups = make(map[string]map[string]searchGroup)
	for _, g := range c.Groupings.GroupBy {
		groups := make(map[string]searchGroup)
		for _, f := range found.Results {
			key := string(f.Room)
			if g.Key == bySender {
				key = string(f.Sender)
			}
			group, ok := groups[key]
			if !ok {
				group.Order = len(groups) + 1
				if found.Next != nil {
					group.NextBatch = searchToken{g.Key, key, *found.Next}.String()
				}
			}
			group.Results = append(slices.Clip(group.Results), f.Event)
			groups[key] = group
		}
		out.Groups[g.Key] = groups
	}
}
