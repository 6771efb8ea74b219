package resolve

import (
	"testing"

	"parley/internal/id"
)

// TestDeviations keeps, for each deviation of gomatrixserverlib, a smallest room whose last
// event merges branches to another state than the library's, for that reason alone. The
// paragraph that decides is cited at the deviation.
func TestDeviations(t *testing.T) {
	for _, c := range []struct {
		why     deviation
		version id.RoomVersion
		ops     []op
	}{
		{thirdPartyInvitesFirst, "1", []op{
			{ID: 0, Sender: "@a:a", Type: "m.room.create", Content: `{"creator":"@a:a"}`},
			{ID: 1, Prev: []int{0}, Sender: "@a:a", Type: "m.room.member", StateKey: "@a:a", Content: `{"membership":"join"}`},
			{ID: 17, Prev: []int{1}, Sender: "@a:a", Type: "m.room.third_party_invite", StateKey: "t", Content: invite3pid},
			{ID: 21, Prev: []int{1}, Sender: "@a:a", Type: "m.room.third_party_invite", StateKey: "t", Content: invite3pid},
			{ID: 40, Prev: []int{1}, Sender: "@a:a", Type: "m.room.member", StateKey: "@a:a", Content: `{"membership":"join"}`},
			{ID: 43, Prev: []int{1, 17, 21, 40}, Sender: "@a:a", Type: "m.room.power_levels", Content: `{"users":{"@a:a":100,"@b:a":50,"@c:b":50,"@d:b":0}}`},
		}},
		{withoutUnconflicted, "11", []op{
			{ID: 0, Sender: "@a:a", Type: "m.room.create", Content: `{"creator":"@a:a"}`},
			{ID: 1, Prev: []int{0}, Sender: "@a:a", Type: "m.room.member", StateKey: "@a:a", Content: `{"membership":"join"}`},
			{ID: 2, Prev: []int{1}, Sender: "@a:a", Type: "m.room.power_levels", Content: `{"users":{"@a:a":100,"@b:a":50,"@c:b":50}}`},
			{ID: 3, Prev: []int{2}, Sender: "@a:a", Type: "m.room.join_rules", Content: `{"join_rule":"public"}`},
			{ID: 5, Prev: []int{3}, Sender: "@c:b", Type: "m.room.member", StateKey: "@c:b", Content: `{"membership":"join"}`},
			{ID: 18, Prev: []int{5}, Sender: "@c:b", Type: "m.room.join_rules", Content: `{"join_rule":"public"}`},
			{ID: 46, Prev: []int{5, 18}, Sender: "@a:a", Type: "m.room.join_rules", Content: `{"join_rule":"invite"}`},
			{ID: 49, Prev: []int{46}, Sender: "@a:a", Type: "m.room.member", StateKey: "@a:a", Content: `{"membership":"join"}`},
			{ID: 58, Prev: []int{5, 18, 46, 49}, Sender: "@a:a", Type: "m.room.power_levels", StateKey: "odd", Content: `{"invite":100,"users":{"@a:a":25,"@b:a":100,"@c:b":50,"@d:b":100,"@e:c":25},"users_default":0}`},
			{ID: 60, Prev: []int{5, 18}, Sender: "@a:a", Type: "m.room.member", StateKey: "@a:a", Content: `{"membership":"invite"}`},
			{ID: 79, Prev: []int{5, 18}, Sender: "@a:a", Type: "m.room.member", StateKey: "@e:c", Content: `{"membership":"invite"}`},
			{ID: 80, Prev: []int{5, 18}, Sender: "@e:c", Type: "m.room.power_levels", Content: `{"invite":100,"users":{"@a:a":100,"@b:a":100,"@c:b":50,"@e:c":25,"@f:c":25},"users_default":0}`},
			{ID: 92, Prev: []int{5, 18}, Sender: "@f:c", Type: "m.room.member", StateKey: "@f:c", Content: `{"membership":"join","join_authorised_via_users_server":"@b:a"}`},
			{ID: 93, Prev: []int{58, 60, 79, 80, 92}, Sender: "@a:a", Type: "m.room.member", StateKey: "@c:b", Content: `{"membership":"invite"}`},
		}},
		{smallerPowerSet, "11", []op{
			{ID: 0, Sender: "@a:a", Type: "m.room.create", Content: `{"creator":"@a:a"}`},
			{ID: 1, Prev: []int{0}, Sender: "@a:a", Type: "m.room.member", StateKey: "@a:a", Content: `{"membership":"join"}`},
			{ID: 19, Prev: []int{1}, Sender: "@c:b", Type: "m.room.member", StateKey: "@c:b", Content: `{"membership":"leave"}`},
			{ID: 21, Prev: []int{19}, Sender: "@a:a", Type: "m.room.member", StateKey: "@c:b", Content: `{"membership":"leave"}`},
			{ID: 24, Prev: []int{1, 21}, Sender: "@c:b", Type: "org.example", StateKey: "@c:b", Content: `{"topic":"24"}`},
		}},
		{sortsFromTheEnd, "11", []op{
			{ID: 0, Sender: "@a:a", Type: "m.room.create", Content: `{"creator":"@a:a"}`},
			{ID: 1, Prev: []int{0}, Sender: "@a:a", Type: "m.room.member", StateKey: "@a:a", Content: `{"membership":"join"}`},
			{ID: 2, Prev: []int{1}, Sender: "@a:a", Type: "m.room.power_levels", Content: `{"users":{"@a:a":100,"@b:a":50,"@c:b":50}}`},
			{ID: 3, Prev: []int{2}, Sender: "@a:a", Type: "m.room.join_rules", Content: `{"join_rule":"public"}`},
			{ID: 5, Prev: []int{3}, Sender: "@c:b", Type: "m.room.member", StateKey: "@c:b", Content: `{"membership":"join"}`},
			{ID: 15, Prev: []int{5}, Sender: "@a:a", Type: "m.room.member", StateKey: "@c:b", Content: `{"membership":"ban"}`},
			{ID: 20, Prev: []int{5}, Sender: "@a:a", Type: "m.room.power_levels", Content: `{"users":{"@a:a":0,"@b:a":50,"@c:b":50},"users_default":25}`},
			{ID: 21, Prev: []int{15, 20}, Sender: "@e:c", Type: "m.room.power_levels", Content: `{"users":{"@a:a":100,"@b:a":50,"@c:b":50}}`},
		}},
		{creatorWithoutLevel, "11", []op{
			{ID: 0, Sender: "@a:a", Type: "m.room.create", Content: `{"creator":"@a:a"}`},
			{ID: 1, Prev: []int{0}, Sender: "@a:a", Type: "m.room.member", StateKey: "@a:a", Content: `{"membership":"join"}`},
			{ID: 2, Prev: []int{1}, Sender: "@a:a", Type: "m.room.join_rules", Content: `{"join_rule":"public"}`},
			{ID: 3, Prev: []int{2}, Sender: "@b:a", Type: "m.room.member", StateKey: "@b:a", Content: `{"membership":"join"}`},
			{ID: 37, Prev: []int{3}, Sender: "@a:a", Type: "m.room.power_levels", Content: `{"users":{"@a:a":50,"@b:a":75}}`},
			{ID: 38, Prev: []int{37}, Sender: "@a:a", Type: "m.room.join_rules", Content: `{"join_rule":"restricted"}`},
			{ID: 45, Prev: []int{37}, Sender: "@b:a", Type: "m.room.third_party_invite", StateKey: "u", Content: invite3pid},
			{ID: 46, Prev: []int{38, 45}, Sender: "@a:a", Type: "m.room.topic", Content: `{"topic":"46"}`},
		}},
		{mainlineSteps, "11", []op{
			{ID: 0, Sender: "@a:a", Type: "m.room.create", Content: `{"creator":"@a:a"}`},
			{ID: 1, Prev: []int{0}, Sender: "@a:a", Type: "m.room.member", StateKey: "@a:a", Content: `{"membership":"join"}`},
			{ID: 16, Prev: []int{1}, Sender: "@a:a", Type: "m.room.power_levels", Content: `{"users":{"@a:a":100,"@b:a":50,"@c:b":50}}`},
			{ID: 17, Prev: []int{16}, Sender: "@a:a", Type: "m.room.third_party_invite", StateKey: "t", Content: invite3pid},
			{ID: 21, Prev: []int{1}, Sender: "@a:a", Type: "m.room.third_party_invite", StateKey: "t", Content: invite3pid, TS: 10},
			{ID: 43, Prev: []int{1, 17, 21}, Sender: "@a:a", Type: "m.room.power_levels", Content: `{"users":{"@a:a":100,"@b:a":50,"@c:b":50,"@d:b":0}}`},
		}},
		{itselfAsAuthEvent, "11", []op{
			{ID: 0, Sender: "@a:a", Type: "m.room.create", Content: `{"creator":"@a:a"}`},
			{ID: 1, Prev: []int{0}, Sender: "@a:a", Type: "m.room.member", StateKey: "@a:a", Content: `{"membership":"join"}`},
			{ID: 2, Prev: []int{1}, Sender: "@a:a", Type: "m.room.power_levels", Content: `{"users":{"@a:a":100,"@b:a":50,"@c:b":50}}`},
			{ID: 3, Prev: []int{2}, Sender: "@a:a", Type: "m.room.join_rules", Content: `{"join_rule":"public"}`},
			{ID: 11, Prev: []int{3}, Sender: "@c:b", Type: "m.room.member", StateKey: "@c:b", Content: `{"membership":"join"}`},
			{ID: 19, Prev: []int{3, 11}, Sender: "@c:b", Type: "m.room.join_rules", Content: `{"join_rule":"public"}`},
			{ID: 38, Prev: []int{3, 11}, Sender: "@a:a", Type: "m.room.join_rules", Content: `{"join_rule":"restricted"}`, TS: 19},
			{ID: 39, Prev: []int{3, 11, 19, 38}, Sender: "@f:c", Type: "m.room.member", StateKey: "@f:c", Content: `{"membership":"knock"}`},
		}},
		{joinRuleSticks, "11", []op{
			{ID: 0, Sender: "@a:a", Type: "m.room.create", Content: `{"creator":"@a:a"}`},
			{ID: 1, Prev: []int{0}, Sender: "@a:a", Type: "m.room.member", StateKey: "@a:a", Content: `{"membership":"join"}`},
			{ID: 3, Prev: []int{1}, Sender: "@a:a", Type: "m.room.join_rules", Content: `{"join_rule":"public"}`},
			{ID: 5, Prev: []int{3}, Sender: "@d:b", Type: "m.room.member", StateKey: "@d:b", Content: `{"membership":"join"}`},
			{ID: 16, Prev: []int{5}, Sender: "@a:a", Type: "m.room.join_rules", Content: `{"join_rule":"knock_restricted"}`, TS: 8},
			{ID: 17, Prev: []int{16}, Sender: "@c:b", Type: "m.room.member", StateKey: "@c:b", Content: `{"membership":"join","join_authorised_via_users_server":"@d:b"}`, TS: 10},
			{ID: 21, Prev: []int{5}, Sender: "@d:b", Type: "m.room.member", StateKey: "@d:b", Content: `{"membership":"join","displayname":"X"}`},
			{ID: 25, Prev: []int{5, 17, 21}, Sender: "@a:a", Type: "m.room.join_rules", Content: `{"join_rule":"restricted"}`},
		}},
		{powerOnlyAtEmptyKey, "11", []op{
			{ID: 0, Sender: "@a:a", Type: "m.room.create", Content: `{"creator":"@a:a"}`},
			{ID: 10, Prev: []int{0}, Sender: "@a:a", Type: "m.room.member", StateKey: "@a:a", Content: `{"membership":"join","displayname":"X"}`},
			{ID: 34, Prev: []int{0, 10}, Sender: "@a:a", Type: "m.room.power_levels", StateKey: "odd", Content: `{"events":{"m.room.power_levels":50,"m.room.topic":50},"invite":50,"users":{"@a:a":50,"@b:a":50,"@c:b":0}}`},
			{ID: 64, Prev: []int{0, 10}, Sender: "@a:a", Type: "m.room.power_levels", Content: `{"events":{"m.room.power_levels":50,"m.room.topic":50},"invite":50,"users":{"@a:a":0,"@b:a":50,"@c:b":0}}`},
			{ID: 77, Prev: []int{0, 10, 34, 64}, Sender: "@e:c", Type: "m.room.member", StateKey: "@c:b", Content: `{"membership":"invite"}`},
		}},
	} {
		t.Run(c.why.String(), func(t *testing.T) {
			differ := false
			_, err := replay(c.version, 1, c.ops, func(r *room, states []stateMap, got stateMap) error {
				if err := difference(got, reference{r, states}.resolve()); err != nil {
					return err
				}
				lib, err := library(r, states)
				if err != nil || difference(got, lib) == nil {
					return err
				}
				differ = true
				return difference(deviating{reference{r, states}, map[deviation]bool{c.why: true}}.resolve(), lib)
			})
			if err != nil {
				t.Error(err)
			}
			if !differ {
				t.Error("the library does it, too, now: the deviation can go")
			}
		})
	}
}

const invite3pid = `{"display_name":"x","key_validity_url":"https://x","public_key":"x"}`
