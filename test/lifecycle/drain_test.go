package lifecycle

import (
	"fmt"
	"maps"
	"net/http"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestDrain ends the server by SIGTERM while clients wait in long polls and others send. Every poll is answered,
// every acknowledged message is there after the restart, and the process exits with status 0.
func TestDrain(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		const polls, senders = 20, 4
		srv := harness.Start(t, db)
		owner, observer := srv.Register(t, "owner"), srv.Register(t, "observer")
		busy, quiet := owner.NewRoomWith(observer), owner.NewRoomWith(observer)
		var all []*sender
		for i := range senders {
			u := srv.Register(t, fmt.Sprintf("sender%d", i))
			owner.Invite(busy, u)
			u.Join(busy)
			all = append(all, &sender{user: u, name: u.UserID.Localpart(), sent: map[string]id.EventID{}})
		}
		r := read(observer, busy)

		// The polls wait for the quiet room alone, so that nothing but the end of the server ends them.
		answers := make(chan harness.Response, polls)
		for range polls {
			go func() {
				filter := fmt.Sprintf(`{"presence":{"types":[]},"room":{"rooms":[%q]}}`, quiet)
				answers <- get(t, observer, observer.BuildURLWithQuery(mautrix.ClientURLPath{"v3", "sync"}, map[string]string{
					"since": r.stream.Since, "timeout": "90000", "filter": filter,
				}))
			}()
		}
		load := startLoad(t, busy, all)
		load.await(t, 50)
		if len(answers) > 0 {
			t.Fatal("a long poll ended before there was a reason")
		}

		srv.Terminate()
		for range polls {
			if a := <-answers; a.Status != http.StatusOK || a.Get("next_batch").String() == "" {
				t.Errorf("a waiting long poll was ended with %d %s; want 200 and a token to go on from", a.Status, a.Body)
			}
		}
		load.running.Wait()
		srv.Wait()
		srv.Run()

		want := map[string]id.EventID{}
		for _, s := range all {
			sent, err := s.send(t.Context(), busy, s.pending)
			if err != nil {
				t.Fatalf("retry of %q, which had no answer: %v", s.pending, err)
			}
			s.sent[s.pending] = sent
			maps.Copy(want, s.sent)
		}
		last := owner.Say(busy, "over")
		wantOnce(t, "/messages", messages(owner.Page(busy, "", mautrix.DirectionBackward, 100)), want)
		r.until(t, last)
		wantOnce(t, "/sync from an old token", r.seen, want)
	})
}

// get makes a request whose answer may be a failure of the connection; that has status 0.
func get(t testing.TB, u *harness.User, url string) harness.Response {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return harness.Response{Body: []byte(err.Error())}
	}
	req.Header.Set("Authorization", "Bearer "+u.AccessToken)
	return harness.Send(req)
}

// TestRestart stops and starts a server, and goes on as if nothing had been.
func TestRestart(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.Start(t, db)
		alice, bob := srv.Register(t, "alice"), srv.Register(t, "bob")
		room := alice.NewRoomWith(bob)
		bobSees := bob.CaughtUp()
		first := alice.Say(room, "before")
		if err := bob.MarkRead(t.Context(), room, first); err != nil {
			t.Fatal(err)
		}
		alice.Do("PUT", harness.Path("v3", "sendToDevice", "org.example.hello", "1"), map[string]any{
			"messages": map[id.UserID]any{bob.UserID: map[string]any{"*": map[string]any{"n": 1}}},
		}).WantOK(t)
		started := time.Now()
		srv.Stop()
		t.Logf("the stop took %v", time.Since(started))
		srv.Run()

		after := alice.Say(room, "after")
		var got []*event.Event
		toDevice := 0
		bobSees.Until("all that was missed", func(resp *mautrix.RespSync) bool {
			got = append(got, messages(harness.Timeline(resp, room))...)
			toDevice += len(resp.ToDevice.Events)
			return harness.Find(got, after) != nil
		})
		if len(got) != 2 || got[0].ID != first {
			t.Errorf("from the old token came %v; want %s and %s", harness.IDs(got), first, after)
		}
		if toDevice != 1 {
			t.Errorf("%d to-device messages came; want 1", toDevice)
		}
		bob.Login()
		if got := harness.Bodies(bob.Page(room, "", mautrix.DirectionBackward, 1)); len(got) != 2 {
			t.Errorf("bob pages back through %q; want both messages", got)
		}
	})
}
