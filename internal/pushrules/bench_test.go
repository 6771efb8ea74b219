package pushrules

import (
	"encoding/json"
	"fmt"
	"testing"

	"parley/internal/id"
)

// BenchmarkMembers evaluates one message for the 10,000 members of its room, of whom each tenth has rules of their own.
func BenchmarkMembers(b *testing.B) {
	const count = 10_000
	members, rules := make([]Member, count), make([]*Evaluator, count)
	common := Compile(nil)
	for i := range members {
		members[i] = Member{User: id.UserID(fmt.Sprintf("@user%d:example.org", i)), DisplayName: fmt.Sprintf("User Number %d", i)}
		if rules[i] = common; i%10 != 0 {
			continue
		}
		c := new(Changes)
		for j, word := range []string{"parley", "lunch*", "release"} {
			draft := Draft{Actions: []json.RawMessage{json.RawMessage(`"notify"`)}, Pattern: &word}
			if err := c.Put(Content, fmt.Sprint("word", j), draft, "", ""); err != nil {
				b.Fatal(err)
			}
		}
		if err := c.Put(Room, fmt.Sprintf("!quiet%d:example.org", i), Draft{Actions: []json.RawMessage{}}, "", ""); err != nil {
			b.Fatal(err)
		}
		rules[i] = Compile(c)
	}
	text := []byte(`{"type":"m.room.message","room_id":"!r:example.org","sender":"@sender:example.org","content":{"msgtype":"m.text",` +
		`"body":"Is anybody coming along to the place by the river, as every week? User Number 4712 was asking.","m.mentions":{"user_ids":["@user4712:example.org"]}}}`)
	notified := 0
	for b.Loop() {
		notified = 0
		event := NewEvent(text, Context{ID: "$e", Room: "!r:example.org", Members: count, Powers: &Powers{}})
		for i := range members {
			if rules[i].Evaluate(event, members[i]).Notify {
				notified++
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/message")
	if notified != count {
		b.Errorf("%d of %d are notified", notified, count)
	}
}
