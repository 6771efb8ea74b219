package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"parley/test/harness"
)

// TestKill kills the server under load, several times, and looks each time whether anything was lost or doubled.
func TestKill(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		const rounds, senders, acknowledgements = 3, 4, 80
		srv := harness.Start(t, db)
		owner, observer := srv.Register(t, "owner"), srv.Register(t, "observer")
		room := owner.NewRoomWith(observer)
		var all []*sender
		for i := range senders {
			u := srv.Register(t, fmt.Sprintf("sender%d", i))
			owner.Invite(room, u)
			u.Join(room)
			all = append(all, &sender{user: u, name: u.UserID.Localpart(), sent: map[string]id.EventID{}})
		}
		fromStart := read(observer, room)
		live := fromStart.readOn()

		for round := range rounds {
			beforeRound := live.readOn()
			load := startLoad(t, room, all)
			lastTopic := -1
			load.running.Go(func() { lastTopic = setTopics(t.Context(), owner, room, round) })
			load.running.Go(func() { watch(t.Context(), live) })
			load.await(t, acknowledgements)
			srv.Kill()
			load.running.Wait()
			srv.Run()

			want := map[string]id.EventID{}
			for _, s := range all {
				var answer mautrix.HTTPError
				if errors.As(s.err, &answer) && answer.Response != nil {
					t.Errorf("%q was refused: %v", s.pending, s.err)
				}
				for txn, sent := range s.sent {
					again, err := s.send(t.Context(), room, txn)
					if err != nil {
						t.Fatalf("retry of %q: %v", txn, err)
					}
					if again != sent {
						t.Errorf("%q was acknowledged as %s, and its retry as %s", txn, sent, again)
					}
				}
				// What was not answered may be there or not; the retry puts it there once.
				sent, err := s.send(t.Context(), room, s.pending)
				if err != nil {
					t.Fatalf("retry of %q, which had no answer: %v", s.pending, err)
				}
				s.sent[s.pending] = sent
				maps.Copy(want, s.sent)
			}
			last := owner.Say(room, fmt.Sprintf("round %d is over", round))
			wantOnce(t, "/messages", messages(owner.Page(room, "", mautrix.DirectionBackward, 100)), want)
			for name, r := range map[string]*reader{
				"/sync from the kill":            live,
				"/sync from the round's start":   beforeRound,
				"/sync from before all the load": fromStart.readOn(),
			} {
				r.until(t, last)
				wantOnce(t, name, r.seen, want)
			}
			// The topic is the last that was acknowledged, or the one after it.
			got := owner.StateContent(room, event.StateTopic, "")["topic"]
			if got != topicOf(round, lastTopic) && got != topicOf(round, lastTopic+1) {
				t.Errorf("the topic is %v; want number %d of the round, or the one after it", got, lastTopic)
			}
		}
	})
}

func topicOf(round, n int) string { return fmt.Sprintf("topic %d of round %d", n, round) }

// setTopics changes the room's state until the server is gone, and returns the number of the last acknowledged change.
func setTopics(ctx context.Context, u *harness.User, room id.RoomID, round int) int {
	for n := 0; ; n++ {
		_, err := u.SendStateEvent(ctx, room, event.StateTopic, "", map[string]any{"topic": topicOf(round, n)})
		if err != nil {
			return n - 1
		}
	}
}

// watch long-polls until the server is gone. Like a client, it goes on from a token once it has all that came before.
func watch(ctx context.Context, r *reader) {
	for {
		since := r.stream.Since
		resp, err := r.user.FullSyncRequest(ctx, mautrix.ReqSync{Since: since, Timeout: 30_000})
		if err != nil || r.take(ctx, since, resp) != nil {
			return
		}
		r.stream.Since = resp.NextBatch
	}
}

// TestKillAfterAcknowledgement kills the server at the very moment of an answer, with nothing else under way, and so
// catches a write that is acknowledged before it is made.
func TestKillAfterAcknowledgement(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		srv := harness.Start(t, db)
		alice := srv.Register(t, "alice")
		srv.Kill()
		srv.Run()
		if _, err := alice.Whoami(t.Context()); err != nil {
			t.Fatalf("a registration was acknowledged and lost: %v", err)
		}
		room := alice.NewRoom(nil)
		srv.Kill()
		srv.Run()
		for i := range 3 {
			said := alice.Say(room, fmt.Sprintf("message %d", i))
			srv.Kill()
			srv.Run()
			alice.Event(room, said)
		}
		if err := alice.SetAccountData(t.Context(), "org.example.data", map[string]any{"n": 1}); err != nil {
			t.Fatal(err)
		}
		if err := alice.SetDisplayName(t.Context(), "Alice"); err != nil {
			t.Fatal(err)
		}
		srv.Kill()
		srv.Run()
		if err := alice.GetAccountData(t.Context(), "org.example.data", &map[string]any{}); err != nil {
			t.Errorf("account data was acknowledged and lost: %v", err)
		}
		if name, err := alice.GetDisplayName(t.Context(), alice.UserID); err != nil || name.DisplayName != "Alice" {
			t.Errorf("a display name was acknowledged and lost: %v, %v", name, err)
		}
		alice.Do("POST", harness.Path("v3", "logout"), map[string]any{}).WantOK(t)
		srv.Kill()
		srv.Run()
		_, err := alice.Whoami(t.Context())
		harness.WantError(t, err, 401, "M_UNKNOWN_TOKEN")
	})
}
