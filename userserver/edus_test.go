package userserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/eventually"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/storage"
	"parley/userserver"
)

func edu(kind, format string, args ...any) serverapi.EDU {
	return serverapi.EDU{Type: kind, Content: json.RawMessage(fmt.Sprintf(format, args...))}
}

func TestReceiveTypingAndReceipts(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		f.room(t, "!r:x.org", []id.UserID{alice, "@bob:y.org", "@eve:denied.org"}, `{}`, `{}`)
		for _, c := range []struct {
			origin id.ServerName
			edu    serverapi.EDU
			code   matrixerr.Code
		}{
			{"y.org", edu("m.typing", `{"room_id":"!r:x.org","user_id":"@bob:y.org","typing":true}`), ""},
			{"z.org", edu("m.typing", `{"room_id":"!r:x.org","user_id":"@bob:y.org","typing":false}`), matrixerr.Forbidden},
			{"y.org", edu("m.typing", `{"room_id":"!r:x.org","user_id":"@alice:x.org","typing":true}`), matrixerr.Forbidden},
			{"y.org", edu("m.typing", `{"room_id":"!r:x.org","user_id":"@other:y.org","typing":true}`), matrixerr.Forbidden},
			{"y.org", edu("m.typing", `{"room_id":"!none:x.org","user_id":"@bob:y.org","typing":true}`), matrixerr.Forbidden},
			{"denied.org", edu("m.typing", `{"room_id":"!r:x.org","user_id":"@eve:denied.org","typing":true}`), matrixerr.Forbidden},
			{"y.org", edu("m.typing", `{"room_id":7}`), matrixerr.BadJSON},
			{"y.org", edu("m.typing", `[]`), matrixerr.BadJSON},
			{"y.org", edu("m.unknown", `{}`), matrixerr.Unrecognized},
			{"y.org", edu("m.receipt", `{"!r:x.org":{"m.read":{"@bob:y.org":{"data":{"ts":5},"event_ids":["$0"]},`+
				`"@alice:x.org":{"data":{"ts":5},"event_ids":["$0"]},"@other:y.org":{"data":{"ts":5},"event_ids":["$0"]}},`+
				`"m.read.private":{"@bob:y.org":{"data":{"ts":5},"event_ids":["$1"]}}},"!none:x.org":{"m.read":{"@bob:y.org":{"event_ids":["$0"]}}}}`), ""},
			{"y.org", edu("m.receipt", `{"!r:x.org":{"m.read":{"@bob:y.org":{"data":{"ts":9},"event_ids":["$unknown"]}}}}`), ""},
			{"denied.org", edu("m.receipt", `{"!r:x.org":{"m.read":{"@eve:denied.org":{"data":{"ts":5},"event_ids":["$0"]}}}}`), ""},
		} {
			wantCode(t, f.ReceiveEDU(ctx, c.origin, c.edu), c.code)
		}
		if users, _ := f.Typing("!r:x.org"); !slices.Equal(users, []id.UserID{"@bob:y.org"}) {
			t.Errorf("%v type", users)
		}
		receipts := must[[]storage.Receipt](t)(storage.Get(ctx, f.db, func(tx *storage.Tx) ([]storage.Receipt, error) {
			return tx.ListReceipts(1, alice, 0, 1<<40, 100)
		}))
		if len(receipts) != 1 || receipts[0].User != "@bob:y.org" || receipts[0].Event != "$0" || receipts[0].TS != 5 {
			t.Errorf("receipts %+v", receipts)
		}
		f.clock.Pass(2 * time.Minute)
		eventually.True(t, "what must come to be so does not", func() bool { users, _ := f.Typing("!r:x.org"); return len(users) == 0 })
	})
}

func TestReceivePresence(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice := f.register(t, "alice").User
		f.room(t, "!r:x.org", []id.UserID{alice, "@bob:y.org", "@carol:y.org"})
		if err := f.ReceiveEDU(ctx, "y.org", edu("m.presence", `{"push":[
			{"user_id":"@bob:y.org","presence":"online","last_active_ago":1000,"currently_active":true,"status_msg":"hi"},
			{"user_id":"@carol:y.org","presence":"dancing","last_active_ago":1000},
			{"user_id":"@alice:x.org","presence":"unavailable","last_active_ago":1000},
			{"user_id":"@stranger:y.org","presence":"online","last_active_ago":-1}]}`)); err != nil {
			t.Fatal(err)
		}
		want := userserver.Presence{State: userserver.Online, StatusMsg: "hi", LastActive: f.clock.Now().Add(-time.Second), CurrentlyActive: true}
		if got := f.GetPresence("@bob:y.org"); got != want {
			t.Errorf("bob is %+v", got)
		}
		for _, user := range []id.UserID{alice, "@carol:y.org", "@stranger:y.org"} {
			if got := f.GetPresence(user); got.State != userserver.Offline {
				t.Errorf("%s is %+v", user, got)
			}
		}
	})
}

func TestReceiveToDevice(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := context.Background()
		alice := f.register(t, "alice")
		receive := func(origin id.ServerName, sender, message, messages string, code matrixerr.Code) {
			t.Helper()
			wantCode(t, f.ReceiveEDU(ctx, origin, edu("m.direct_to_device", `{"sender":%q,"type":"m.test","message_id":%q,"messages":%s}`,
				sender, message, messages)), code)
		}
		one := fmt.Sprintf(`{"@alice:x.org":{%q:{"n":1}},"@none:x.org":{"*":{}},"@carol:z.org":{"*":{}}}`, alice.Device)
		receive("y.org", "@bob:y.org", "1", one, "")
		receive("y.org", "@bob:y.org", "1", one, "") // sent again, as its answer got lost
		receive("y.org", "@bob:y.org", "2", `{"@alice:x.org":{"*":{"n":2}}}`, "")
		receive("z.org", "@carol:z.org", "1", `{"@alice:x.org":{"*":{"n":3}}}`, "") // an ID is its sender's
		receive("z.org", "@bob:y.org", "3", one, matrixerr.Forbidden)
		receive("y.org", "@bob:y.org", "", one, matrixerr.InvalidParam)
		receive("y.org", "@bob:y.org", "4", `{"@alice:x.org":{"*":7}}`, matrixerr.BadJSON)
		receive("y.org", "@bob:y.org", "5", `{"@alice:x.org":7}`, matrixerr.BadJSON)
		var got []string
		for _, m := range must[[]storage.ToDevice](t)(storage.Get(ctx, f.db, func(tx *storage.Tx) ([]storage.ToDevice, error) {
			return tx.ListToDevice(alice.DeviceNID, 0, 1<<40, 100)
		})) {
			got = append(got, gjson.GetBytes(m.JSON, "sender").Str+" "+gjson.GetBytes(m.JSON, "content.n").Raw)
		}
		if !slices.Equal(got, []string{"@bob:y.org 1", "@bob:y.org 2", "@carol:z.org 3"}) {
			t.Errorf("messages %q", got)
		}
	})
}

// FuzzReceiveEDU has a server send anything at all: it is refused or taken in, and is never an error of ours.
func FuzzReceiveEDU(f *testing.F) {
	for _, e := range []serverapi.EDU{
		edu("m.typing", `{"room_id":"!r:x.org","user_id":"@bob:y.org","typing":true}`),
		edu("m.presence", `{"push":[{"user_id":"@bob:y.org","presence":"online","last_active_ago":99999999999999}]}`),
		edu("m.receipt", `{"!r:x.org":{"m.read":{"@bob:y.org":{"data":{"ts":5,"thread_id":"main"},"event_ids":["$0"]}}}}`),
		edu("m.direct_to_device", `{"sender":"@bob:y.org","type":"m.test","message_id":"1","messages":{"@alice:x.org":{"*":{}}}}`),
		edu("m.device_list_update", `{"user_id":"@bob:y.org","device_id":"D","stream_id":7,"prev_id":[6],"keys":{"a":1}}`),
		edu("m.signing_key_update", `{"user_id":"@bob:y.org","master_key":{"user_id":"@bob:y.org","usage":["master"],"keys":{"ed25519:a":"a"}}}`),
	} {
		f.Add(e.Type, string(e.Content))
	}
	x := newFixture(f, filepath.Join(f.TempDir(), "parley.db"))
	alice := x.register(f, "alice").User
	x.room(f, "!r:x.org", []id.UserID{alice, "@bob:y.org"}, `{}`)
	f.Fuzz(func(t *testing.T, kind, content string) {
		if err := x.ReceiveEDU(context.Background(), "y.org", serverapi.EDU{Type: kind, Content: json.RawMessage(content)}); err != nil &&
			matrixerr.CodeOf(err) == "" {
			t.Fatal(err)
		}
	})
}
