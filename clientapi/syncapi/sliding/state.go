package sliding

import (
	"encoding/json"
	"slices"

	"parley/internal/id"
)

const (
	// maxElements bounds what a required_state may list.
	maxElements = 256

	memberType = "m.room.member"
	// Names in the older dialect that stand for something else.
	anything = "*"
	lazily   = "$LAZY"
	themself = "$ME"
)

// Required says which state is wanted: what any of its clauses wants.
type Required []Clause

// Clause says which state one list or one subscription wants. Its JSON is that of the
// protocol's newer dialect.
type Clause struct {
	Include []Element `json:"include,omitempty"`
	Exclude []Element `json:"exclude,omitempty"`
	// Lazy asks for those members alone who have to do with the timeline.
	Lazy bool `json:"lazy_members,omitempty"`
}

// Element matches places of the state; nil matches everything.
type Element struct {
	Type     *string `json:"type,omitempty"`
	StateKey *string `json:"state_key,omitempty"`
}

func (c *Clause) empty() bool { return len(c.Include) == 0 && !c.Lazy }

func (e *Element) matches(typ, key string) bool {
	return (e.Type == nil || *e.Type == typ) && (e.StateKey == nil || *e.StateKey == key)
}

// matches says whether a clause wants a place of the state. Of members that are loaded lazily
// it wants those alone that it names.
func (c *Clause) matches(typ, key string) bool {
	in := false
	for i := range c.Include {
		e := &c.Include[i]
		if e.matches(typ, key) && (!c.Lazy || typ != memberType || e.Type != nil && e.StateKey != nil) {
			in = true
			break
		}
	}
	if !in {
		return false
	}
	for i := range c.Exclude {
		if c.Exclude[i].matches(typ, key) {
			return false
		}
	}
	return true
}

// Matches says whether a place of the state is wanted, whoever has to do with the timeline.
func (r Required) Matches(typ, key string) bool {
	for i := range r {
		if r[i].matches(typ, key) {
			return true
		}
	}
	return false
}

// AllMembers says whether the members of the room are wanted without being named.
func (r Required) AllMembers() bool {
	for i := range r {
		c := &r[i]
		if c.Lazy {
			continue
		}
		for j := range c.Include {
			if e := &c.Include[j]; e.StateKey == nil && (e.Type == nil || *e.Type == memberType) {
				return true
			}
		}
	}
	return false
}

// Lazy says whether members are to be loaded as the timeline needs them.
func (r Required) Lazy() bool {
	return slices.ContainsFunc(r, func(c Clause) bool { return c.Lazy }) && !r.AllMembers()
}

// Members are the members who are wanted by name.
func (r Required) Members() []id.UserID {
	var out []id.UserID
	for i := range r {
		for j := range r[i].Include {
			e := &r[i].Include[j]
			if e.StateKey == nil || e.Type != nil && *e.Type != memberType || *e.StateKey == "" {
				continue
			}
			if u := id.UserID(*e.StateKey); !slices.Contains(out, u) && r.Matches(memberType, *e.StateKey) {
				out = append(out, u)
			}
		}
	}
	return out
}

// Others says whether any state is wanted that is no member's.
func (r Required) Others() bool {
	for i := range r {
		for j := range r[i].Include {
			if e := &r[i].Include[j]; e.Type == nil || *e.Type != memberType {
				return true
			}
		}
	}
	return false
}

// Merge is what both want.
func (c *Config) Merge(other *Config) {
	c.TimelineLimit = max(c.TimelineLimit, other.TimelineLimit)
	for i := range other.State {
		if !slices.ContainsFunc(c.State, func(have Clause) bool { return have.equal(&other.State[i]) }) {
			c.State = append(c.State[:len(c.State):len(c.State)], other.State[i])
		}
	}
}

func (c *Clause) equal(d *Clause) bool {
	same := func(x, y Element) bool { return equal(x.Type, y.Type) && equal(x.StateKey, y.StateKey) }
	return c.Lazy == d.Lazy && slices.EqualFunc(c.Include, d.Include, same) && slices.EqualFunc(c.Exclude, d.Exclude, same)
}

func equal(x, y *string) bool { return x == y || x != nil && y != nil && *x == *y }

// Text is the form in which it is kept; the same for what is equal.
func (r Required) Text() string {
	if len(r) == 0 {
		return ""
	}
	texts := make([]string, len(r))
	for i := range r {
		b, _ := json.Marshal(r[i]) // strings can always be encoded
		texts[i] = string(b)
	}
	slices.Sort(texts)
	out := "["
	for i, t := range texts {
		if i > 0 {
			out += ","
		}
		out += t
	}
	return out + "]"
}

// ParseRequired reads what Text wrote.
func ParseRequired(text string) (r Required, err error) {
	if text == "" {
		return nil, nil
	}
	return r, json.Unmarshal([]byte(text), &r)
}

// parsePairs reads the older dialect: a list of types with state keys.
func parsePairs(raw []byte, user id.UserID) (c Clause, err error) {
	var pairs [][2]string
	if err := json.Unmarshal(raw, &pairs); err != nil {
		return c, err
	}
	for _, p := range pairs {
		typ, key := p[0], p[1]
		if typ == memberType && key == lazily {
			c.Lazy = true
			continue
		}
		var e Element
		if typ != anything {
			e.Type = &typ
		}
		if key == themself {
			key = string(user)
		}
		if key != anything {
			e.StateKey = &key
		}
		c.Include = append(c.Include, e)
	}
	return c, nil
}
