package hostile

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"maunium.net/go/mautrix"

	"parley/test/harness"
)

const (
	missingEvents = "POST /_matrix/federation/v1/get_missing_events/"
	stateIDs      = "GET /_matrix/federation/v1/state_ids/"
	eventAuth     = "GET /_matrix/federation/v1/event_auth/"
	backfill      = "GET /_matrix/federation/v1/backfill/"
)

// flood answers with white space, n bytes of it, and counts in sent what the other side took.
func flood(n int64, sent *atomic.Int64) http.HandlerFunc {
	chunk := []byte(strings.Repeat(" ", 64<<10))
	return func(w http.ResponseWriter, _ *http.Request) {
		for range n / int64(len(chunk)) {
			k, err := w.Write(chunk)
			sent.Add(int64(k))
			if err != nil {
				return
			}
		}
	}
}

// times is how often the peer was asked what begins so.
func (p *peer) times(begin string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[begin]
}

func answer(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.Write(marshal(v)) }
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) }
}

// another is the scene in another room: of one whose past could not be had a server is not asked for a while.
func (s *scene) another() *scene {
	other := *s
	other.id = s.alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", RoomVersion: version})
	s.bob.Join(other.id)
	other.room = s.peer.join(string(other.id), s.room.user)
	return &other
}

// TestAnswers has the peer send an event whose past is not known, and answer what it is then asked as no server should.
// The event is refused for want of its past, after bounded work.
// spec: server-server-api.md#backfilling-and-retrieving-missing-events
func TestAnswers(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		first := newScene(t, db)
		p := first.peer
		nothing := []string{"$" + strings.Repeat("A", 43)}
		ids := func(n int) []string {
			list := make([]string, n)
			for i := range list {
				list[i] = fmt.Sprintf("$%043d", i)
			}
			return list
		}
		var sent atomic.Int64
		for name, answers := range map[string]func(s *scene, e event) map[string]http.HandlerFunc{
			"nothing": func(*scene, event) map[string]http.HandlerFunc { return nil },
			"100 MB": func(*scene, event) map[string]http.HandlerFunc {
				return map[string]http.HandlerFunc{missingEvents: flood(100<<20, &sent)}
			},
			"an endless answer": func(*scene, event) map[string]http.HandlerFunc {
				return map[string]http.HandlerFunc{missingEvents: flood(1<<50, &sent), eventAuth: flood(1<<50, &sent)}
			},
			"half an answer": func(*scene, event) map[string]http.HandlerFunc {
				return map[string]http.HandlerFunc{missingEvents: func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Length", "1000")
					io.WriteString(w, `{"events":[`)
				}}
			},
			"no JSON": func(*scene, event) map[string]http.HandlerFunc {
				return map[string]http.HandlerFunc{missingEvents: text("evil"), stateIDs: text("\xff"), eventAuth: text("")}
			},
			"other types": func(*scene, event) map[string]http.HandlerFunc {
				return map[string]http.HandlerFunc{missingEvents: text(`{"events":{"a":1}}`), stateIDs: text(`{"pdu_ids":"a"}`)}
			},
			"what is no event": func(*scene, event) map[string]http.HandlerFunc {
				return map[string]http.HandlerFunc{missingEvents: text(`{"events":[null,1,"a",{},[]]}`), stateIDs: text(`{"pdu_ids":["",null],"auth_chain_ids":[""]}`)}
			},
			"a nest": func(*scene, event) map[string]http.HandlerFunc {
				return map[string]http.HandlerFunc{missingEvents: text(strings.Repeat(`{"events":[`, 100_000))}
			},
			"the event itself": func(_ *scene, e event) map[string]http.HandlerFunc {
				return map[string]http.HandlerFunc{missingEvents: answer(object{"events": []any{e.raw, e.raw}}),
					stateIDs: answer(object{"pdu_ids": []string{e.id}, "auth_chain_ids": []string{e.id}})}
			},
			"forged events": func(s *scene, _ event) map[string]http.HandlerFunc {
				fields := s.room.message(evil)
				fields["sender"], fields["prev_events"] = s.alice.UserID, s.room.last
				return map[string]http.HandlerFunc{missingEvents: answer(object{"events": []any{p.seal(fields).raw}})}
			},
			"events of another room": func(s *scene, _ event) map[string]http.HandlerFunc {
				return map[string]http.HandlerFunc{missingEvents: answer(object{"events": []any{p.seal(first.room.message("elsewhere")).raw}})}
			},
			"a past without end": func(s *scene, _ event) map[string]http.HandlerFunc {
				before := "$" + strings.Repeat("B", 43)
				return map[string]http.HandlerFunc{missingEvents: func(w http.ResponseWriter, r *http.Request) {
					// Whatever is asked for follows something else that is not known. Its ID can't be what was asked for.
					var asked struct {
						Latest []string `json:"latest_events"`
					}
					if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || len(asked.Latest) == 0 {
						return
					}
					fields := s.room.message(evil)
					fields["prev_events"] = []string{before}
					e := p.seal(fields)
					before = e.id
					w.Write(marshal(object{"events": []any{e.raw}}))
				}}
			},
			"a state of nothing": func(*scene, event) map[string]http.HandlerFunc {
				return map[string]http.HandlerFunc{stateIDs: answer(object{"pdu_ids": []string{}, "auth_chain_ids": []string{}})}
			},
			"a state that nobody has": func(*scene, event) map[string]http.HandlerFunc {
				return map[string]http.HandlerFunc{stateIDs: answer(object{"pdu_ids": ids(40), "auth_chain_ids": ids(40)})}
			},
			"a state without end": func(*scene, event) map[string]http.HandlerFunc {
				return map[string]http.HandlerFunc{stateIDs: answer(object{"pdu_ids": ids(500_000), "auth_chain_ids": []string{}})}
			},
			"a state of evil": func(s *scene, _ event) map[string]http.HandlerFunc {
				// In it the peer's user has made themselves mighty, and everybody else is banned.
				power := p.seal(s.room.stateEvent(spec.MRoomPowerLevels, "", object{"users": object{s.room.user: 100}}))
				ban := p.seal(s.room.stateEvent(spec.MRoomMember, string(s.alice.UserID), object{"membership": "ban"}, spec.MRoomMember+" "+string(s.alice.UserID)))
				list := []string{s.room.state["m.room.create "], s.room.state["m.room.member "+s.room.user], power.id, ban.id}
				return map[string]http.HandlerFunc{
					stateIDs: answer(object{"pdu_ids": list, "auth_chain_ids": list}),
					"GET /_matrix/federation/v1/event/": func(w http.ResponseWriter, r *http.Request) {
						for _, e := range []event{power, ban} {
							if name, err := url.PathUnescape(r.URL.EscapedPath()); err == nil && strings.HasSuffix(name, e.id) {
								w.Write(marshal(p.transaction([]json.RawMessage{e.raw})))
							}
						}
					},
				}
			},
		} {
			t.Run(name, func(t *testing.T) {
				s := first.another()
				fields := s.room.message(evil)
				fields["prev_events"] = nothing
				if name == "a state of evil" { // for the message alone would be allowed
					fields = s.room.stateEvent("m.room.topic", "", object{"topic": evil})
					fields["prev_events"] = nothing
				}
				e := p.seal(fields)
				before := s.state(t)
				for _, begin := range []string{missingEvents, stateIDs, eventAuth} {
					p.answer(begin, http.NotFound)
				}
				for begin, h := range answers(s, e) {
					p.answer(begin, h)
				}
				asked := p.times(missingEvents) + p.times(stateIDs) + p.times(eventAuth)
				logged := len(refusals(s.parley))
				sent.Store(0)
				if result := s.room.send(t, e); result == "" {
					t.Error("the event was taken")
				}
				if n := sent.Load(); n > 80<<20 {
					t.Errorf("Parley read %d MB", n>>20)
				}
				if n := p.times(missingEvents) + p.times(stateIDs) + p.times(eventAuth) - asked; n > 110 {
					t.Errorf("Parley asked %d times", n)
				}
				if lines := refusals(s.parley)[logged:]; len(lines) != 1 {
					t.Errorf("the log has %d lines on it: %q; want one", len(lines), lines)
				}
				s.unharmed(t, before)
			})
		}
	})
}

// TestStall: while one server does not answer, the node goes on with all others, and with the room.
func TestStall(t *testing.T) {
	harness.EachDatabase(t, func(t *testing.T, db harness.Database) {
		network := harness.NewNetwork(t)
		s := &scene{parley: network.Parley(t, db, "")}
		s.peer = newPeer(t, network, s.parley)
		s.alice, s.bob = s.parley.Register(t, "alice"), s.parley.Register(t, "bob")
		s.id = s.alice.NewRoom(&mautrix.ReqCreateRoom{Preset: "public_chat", RoomVersion: version})
		s.bob.Join(s.id)
		s.room = s.peer.join(string(s.id), "@mallory:"+s.peer.name)
		good := *s
		good.peer = newPeer(t, network, s.parley)
		good.room = good.peer.join(string(s.id), "@good:"+good.peer.name)
		before := s.state(t)

		asked, release := make(chan struct{}, 16), make(chan struct{})
		stall := func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"events":[`)
			http.NewResponseController(w).Flush()
			asked <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		for _, begin := range []string{missingEvents, stateIDs, eventAuth, backfill} {
			s.peer.answer(begin, stall)
		}
		fields := s.room.message(evil)
		fields["prev_events"] = []string{"$" + strings.Repeat("A", 43)}
		e := s.peer.seal(fields)
		body := marshal(s.peer.transaction([]json.RawMessage{e.raw}))
		path := "/_matrix/federation/v1/send/" + nextTransaction()
		answered := make(chan harness.Response, 1)
		go func() { answered <- s.peer.do("PUT", path, body) }()
		<-asked
		good.unharmed(t, before)
		close(release)
		resp := (<-answered).WantOK(t)
		if resp.Get("pdus."+escape(e.id)+".error").Str == "" {
			t.Errorf("the event was taken: %s", resp.Body)
		}
		s.unharmed(t, before)
	})
}
