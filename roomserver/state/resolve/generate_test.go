package resolve

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"parley/internal/id"
	"parley/roomserver/state"
)

var testUsers = []string{"@a:a", "@b:a", "@c:b", "@d:b", "@e:c", "@f:c"}

// generator makes the ops of a room up, looking at the room as it grows.
type generator struct {
	rng  *rand.Rand
	room *room
	ops  []op
	ts   int
}

// generate makes a room of random events: forks of 2 to 5 branches, nested, with merges.
func generate(version id.RoomVersion, seed uint64, onResolve func(*room, []stateMap, stateMap) error) (*generator, error) {
	g := &generator{rng: rand.New(rand.NewPCG(seed, 7)), room: newRoom(version, seed)}
	g.room.onResolve = onResolve
	create := `{"creator":"@a:a"}`
	if version == "12" && g.rng.IntN(2) == 0 {
		create = `{"additional_creators":["@b:a"]}`
	}
	tip, err := g.add(op{Sender: "@a:a", Type: spec.MRoomCreate, Content: create})
	if err != nil {
		return g, err
	}
	member := func(sender, user, content string) error {
		var err error
		tip, err = g.add(op{Prev: []int{tip}, Sender: sender, Type: spec.MRoomMember, StateKey: user, Content: content})
		return err
	}
	if err := member("@a:a", "@a:a", `{"membership":"join"}`); err != nil {
		return g, err
	}
	users := `{"@a:a":100,"@b:a":50,"@c:b":50}`
	if version == "12" {
		users = `{"@c:b":100,"@d:b":50}`
	}
	if g.rng.IntN(8) > 0 {
		if tip, err = g.add(op{Prev: []int{tip}, Sender: "@a:a", Type: spec.MRoomPowerLevels, Content: `{"users":` + users + `}`}); err != nil {
			return g, err
		}
	}
	if tip, err = g.add(op{Prev: []int{tip}, Sender: "@a:a", Type: spec.MRoomJoinRules, Content: `{"join_rule":"public"}`}); err != nil {
		return g, err
	}
	for _, u := range testUsers[1:] {
		if g.rng.IntN(4) > 0 {
			if err := member(u, u, `{"membership":"join"}`); err != nil {
				return g, err
			}
		}
	}
	for range 1 + g.rng.IntN(3) {
		if tip, err = g.fork(tip, 2); err != nil {
			return g, err
		}
	}
	return g, nil
}

// fork makes branches from an event and merges them.
func (g *generator) fork(from, nest int) (int, error) {
	var tips []int
	for range 2 + max(0, g.rng.IntN(8)-4) {
		tip, err := from, error(nil)
		for range 1 + g.rng.IntN(4) {
			if nest > 0 && g.rng.IntN(12) == 0 {
				tip, err = g.fork(tip, nest-1)
			} else {
				tip, err = g.step([]int{tip})
			}
			if err != nil {
				return 0, err
			}
		}
		tips = append(tips, tip)
	}
	// Branches may end at an older event of another one.
	if g.rng.IntN(4) == 0 {
		tips = append(tips, g.ops[len(g.ops)-1-g.rng.IntN(min(6, len(g.ops)-1))].ID)
	}
	return g.step(tips)
}

func (g *generator) add(o op) (int, error) {
	o.ID = len(g.ops)
	g.ts += g.rng.IntN(2)
	if o.TS == 0 {
		o.TS = max(0, g.ts-g.rng.IntN(3)*g.rng.IntN(3))
	}
	g.ops = append(g.ops, o)
	_, err := g.room.add(o)
	return o.ID, err
}

// step adds a random event that mostly is allowed.
func (g *generator) step(prev []int) (int, error) {
	// What the state before it is matters only for choosing well; one branch will do.
	now := g.room.after[prev[0]]
	pick := func() string { return testUsers[g.rng.IntN(len(testUsers))] }
	sender := pick()
	if g.rng.IntN(3) == 0 {
		sender = "@a:a"
	}
	o := op{Prev: prev, Sender: sender}
	switch n := g.rng.IntN(20); {
	case n < 5:
		o.Type = spec.MRoomPowerLevels
		o.Content = g.powerLevels(now, sender)
		if g.rng.IntN(30) == 0 {
			o.StateKey = "odd"
		}
	case n < 8:
		o.Type = spec.MRoomJoinRules
		rules := []string{"public", "invite", "invite", "knock", "restricted", "knock_restricted"}
		o.Content = fmt.Sprintf(`{"join_rule":%q}`, rules[g.rng.IntN(len(rules))])
	case n < 12: // kick, ban, unban, invite
		o.Type, o.StateKey = spec.MRoomMember, pick()
		o.Content = fmt.Sprintf(`{"membership":%q}`, []string{"leave", "ban", "ban", "invite"}[g.rng.IntN(4)])
	case n < 16: // join, leave, knock, change one's name
		o.Type, o.StateKey = spec.MRoomMember, sender
		o.Content = []string{
			`{"membership":"join"}`, `{"membership":"join","displayname":"X"}`, `{"membership":"leave"}`, `{"membership":"knock"}`,
			fmt.Sprintf(`{"membership":"join","join_authorised_via_users_server":%q}`, pick()),
		}[g.rng.IntN(5)]
	case n < 17:
		o.Type, o.StateKey = spec.MRoomThirdPartyInvite, []string{"t", "u"}[g.rng.IntN(2)]
		o.Content = `{"display_name":"x","key_validity_url":"https://x","public_key":"x"}`
	default:
		o.Type, o.Content = "m.room.topic", fmt.Sprintf(`{"topic":"%d"}`, len(g.ops))
		if g.rng.IntN(3) == 0 {
			o.Type, o.StateKey = "org.example", []string{"", "@a:a", sender}[g.rng.IntN(3)]
		}
	}
	if g.rng.IntN(4) == 0 {
		o.Lag = 1 + g.rng.IntN(6)
		o.Stale = g.rng.IntN(2) == 0
	}
	o.Rejected = g.rng.IntN(8) == 0
	return g.add(o)
}

// powerLevels changes a thing or two in the power levels of a state.
func (g *generator) powerLevels(now stateMap, sender string) string {
	content := map[string]any{}
	if e := now[state.Key{Type: spec.MRoomPowerLevels}]; e != nil {
		_ = json.Unmarshal(e.PDU.Content(), &content)
	}
	users, _ := content["users"].(map[string]any)
	if users == nil {
		users = map[string]any{"@a:a": 100}
		if g.room.version == "12" {
			users = map[string]any{}
		}
	}
	levels := []int{0, 25, 50, 50, 75, 100}
	level := levels[g.rng.IntN(len(levels))]
	switch g.rng.IntN(10) {
	case 0:
		content["users_default"] = levels[g.rng.IntN(3)]
	case 1:
		content["events"] = map[string]any{"m.room.topic": level, "m.room.power_levels": 50}
	case 2:
		content["ban"] = level
	case 3:
		content["invite"] = level
	case 4, 5:
		users[sender] = level
	default:
		users[testUsers[g.rng.IntN(len(testUsers))]] = level
	}
	if g.room.version == "12" && g.rng.IntN(10) > 0 {
		delete(users, "@a:a")
		delete(users, "@b:a")
	}
	content["users"] = users
	b, _ := json.Marshal(content)
	return string(b)
}
