// Package hostile holds black-box tests of what a server does with others that mean it harm. The peer here is a
// homeserver of the test's own: it has a key, serves TLS, signs requests and events, joins rooms and has rooms of its own,
// all as specified until a test tells it otherwise. Whatever it then does must be refused with the specified error, show
// in the log and in the figures, take bounded work, and leave the rooms as they were.
//
// spec: server-server-api.md
package hostile

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"parley/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// version is that of the rooms here.
const version = "11"

// peer is the hostile server.
type peer struct {
	name   string
	keyID  string
	key    ed25519.PrivateKey
	target *harness.Server
	client *http.Client

	t       testing.TB
	mu      sync.Mutex
	answers map[string]http.HandlerFunc // by the path's first segments, "PUT /_matrix/federation/v1/send"
	asked   map[string]int              // how often, by the same
}

// newPeer starts a peer that speaks to the target.
func newPeer(t testing.TB, network *harness.Network, target *harness.Server) *peer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(network.Authority)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	p := &peer{
		name: listener.Addr().String(), keyID: "ed25519:a", key: key, target: target, t: t,
		client: &http.Client{
			Timeout:   2 * time.Minute,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 16},
		},
		answers: map[string]http.HandlerFunc{}, asked: map[string]int{},
	}
	p.answer("GET /_matrix/key/v2/server", func(w http.ResponseWriter, _ *http.Request) { w.Write(p.keys(time.Hour)) })
	p.answer("PUT /_matrix/federation/v1/send/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"pdus":{}}`) })
	certificate, keyFile := network.Certificate(t)
	server := &http.Server{Handler: http.HandlerFunc(p.serve), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	var running sync.WaitGroup
	running.Go(func() { server.ServeTLS(listener, certificate, keyFile) })
	t.Cleanup(func() {
		server.Close()
		running.Wait()
		p.client.CloseIdleConnections()
	})
	return p
}

// answer sets what the peer answers to requests whose method and path begin so; the longest beginning wins.
func (p *peer) answer(begin string, h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[begin] = h
}

func (p *peer) serve(w http.ResponseWriter, r *http.Request) {
	asked := r.Method + " " + r.URL.EscapedPath()
	best, handler := "", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"errcode":"M_NOT_FOUND","error":"nothing here"}`)
	})
	p.mu.Lock()
	for begin, h := range p.answers {
		if strings.HasPrefix(asked, begin) && len(begin) > len(best) {
			best, handler = begin, h
		}
	}
	p.asked[best]++
	p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	handler(w, r)
}

// keys is the peer's own description of its key.
func (p *peer) keys(valid time.Duration) []byte {
	return p.sign(object{
		"server_name": p.name, "valid_until_ts": time.Now().Add(valid).UnixMilli(), "old_verify_keys": object{},
		"verify_keys": object{p.keyID: object{"key": base64.RawStdEncoding.EncodeToString(p.key.Public().(ed25519.PublicKey))}},
	})
}

// object is JSON in the making.
type object map[string]any

// sign gives the object with the peer's signature.
func (p *peer) sign(o object) []byte {
	signed, err := gomatrixserverlib.SignJSON(p.name, gomatrixserverlib.KeyID(p.keyID), p.key, marshal(o))
	if err != nil {
		panic(err)
	}
	return signed
}

// marshal panics where a test made what is not JSON: its goroutine may be one of the HTTP server's.
func marshal(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// do makes a signed request to the target. Empty body for none.
func (p *peer) do(method, path string, body []byte) harness.Response {
	return p.doSigned(method, path, body, p.authorization(method, path, body, p.target.Name))
}

func (p *peer) doSigned(method, path string, body []byte, authorization string) harness.Response {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, "https://"+p.target.Name+path, bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return harness.Response{Body: []byte(err.Error())}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return harness.Response{Body: []byte(err.Error())}
	}
	return harness.Response{Status: resp.StatusCode, Header: resp.Header, Body: data}
}

// authorization is the header that says who makes a request.
// spec: server-server-api.md#request-authentication
func (p *peer) authorization(method, path string, body []byte, destination string) string {
	request := object{"method": method, "uri": path, "origin": p.name, "destination": destination}
	if len(body) > 0 {
		request["content"] = json.RawMessage(body)
	}
	// Of a key that is there twice the last one counts, as for the server under test.
	decoder := json.NewDecoder(bytes.NewReader(marshal(request)))
	decoder.UseNumber()
	var once any
	if err := decoder.Decode(&once); err != nil {
		panic(err)
	}
	sig := base64.RawStdEncoding.EncodeToString(ed25519.Sign(p.key, canonical(once)))
	return fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="%s",sig="%s"`, p.name, destination, p.keyID, sig)
}

// escape makes a key a step of a gjson path.
func escape(key string) string {
	return strings.NewReplacer(".", `\.`, ":", `\:`, "*", `\*`, "?", `\?`, "|", `\|`, "#", `\#`).Replace(key)
}

// event is an event as the peer signed it.
type event struct {
	id  string
	raw json.RawMessage
}

// seal hashes and signs an event, as its sender's server does.
// spec: server-server-api.md#signing-events
func (p *peer) seal(fields object) event {
	fields = clone(fields)
	delete(fields, "hashes")
	delete(fields, "signatures")
	sum := sha256.Sum256(canonical(fields))
	fields["hashes"] = object{"sha256": base64.RawStdEncoding.EncodeToString(sum[:])}
	return p.signEvent(fields)
}

// signEvent signs an event with the hashes that it has.
func (p *peer) signEvent(fields object) event {
	raw := canonical(fields)
	redacted := redact(raw)
	signed, err := gomatrixserverlib.SignJSON(p.name, gomatrixserverlib.KeyID(p.keyID), p.key, redacted)
	if err != nil {
		panic(err)
	}
	fields = clone(fields)
	fields["signatures"] = json.RawMessage(gjson.GetBytes(signed, "signatures").Raw)
	return event{eventID(raw), canonical(fields)}
}

// eventID is an event's reference hash.
// spec: rooms/v4.md#event-ids
func eventID(raw []byte) string {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(redact(raw), &fields); err != nil {
		panic(err)
	}
	for _, name := range []string{"signatures", "unsigned", "age_ts"} {
		delete(fields, name)
	}
	sum := sha256.Sum256(canonical(fields))
	return "$" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// redact is an event without what redaction takes; one that is so wrong that it can't be redacted stays as it is.
func redact(raw []byte) []byte {
	redacted, err := gomatrixserverlib.MustGetRoomVersion(version).RedactEventJSON(raw)
	if err != nil {
		return raw
	}
	return redacted
}

// canonical is v in canonical form, where what of it is raw already is so. Not the library's, which would mend or break
// what a test means to be odd.
func canonical(v any) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(out.Bytes())
}

func clone(o object) object {
	c := make(object, len(o))
	for k, v := range o {
		c[k] = v
	}
	return c
}

// room is a room as the peer sees it.
type room struct {
	id    string
	peer  *peer
	user  string            // who speaks for the peer
	state map[string]string // event IDs by type and state key, separated by a space
	last  []string          // the peer's own last event
	depth int64
}

// join has a user of the peer join a room of the target.
func (p *peer) join(roomID, user string) *room {
	p.t.Helper()
	path := "/_matrix/federation/v1/make_join/" + url.PathEscape(roomID) + "/" + url.PathEscape(user) + "?ver=" + version
	template := p.do("GET", path, nil)
	if template.Status != http.StatusOK {
		p.t.Fatalf("make_join: %d %s", template.Status, template.Body)
	}
	var fields object
	if err := json.Unmarshal([]byte(template.Get("event").Raw), &fields); err != nil {
		p.t.Fatal(err)
	}
	fields["depth"] = template.Get("event.depth").Int() // not as a float
	fields["origin_server_ts"] = time.Now().UnixMilli()
	join := p.seal(fields)
	resp := p.do("PUT", "/_matrix/federation/v2/send_join/"+url.PathEscape(roomID)+"/"+url.PathEscape(join.id), join.raw)
	if resp.Status != http.StatusOK {
		p.t.Fatalf("send_join: %d %s", resp.Status, resp.Body)
	}
	r := &room{id: roomID, peer: p, user: user, state: map[string]string{}, last: []string{join.id}, depth: template.Get("event.depth").Int()}
	for _, e := range resp.Get("state").Array() {
		r.state[e.Get("type").Str+" "+e.Get("state_key").Str] = eventID([]byte(e.Raw))
	}
	r.state[spec.MRoomMember+" "+user] = join.id
	return r
}

// auth are the events that allow one of the peer's user's.
func (r *room) auth(more ...string) []string {
	ids := []string{}
	for _, key := range append([]string{spec.MRoomCreate + " ", spec.MRoomPowerLevels + " ", spec.MRoomMember + " " + r.user}, more...) {
		if id := r.state[key]; id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// evil is what the messages say that nobody must come to read.
const evil = "evil"

// message is the next message, which can be made worse before it is sealed.
func (r *room) message(body string) object {
	return object{
		"room_id": r.id, "sender": r.user, "type": "m.room.message", "origin_server_ts": time.Now().UnixMilli(),
		"content": object{"msgtype": "m.text", "body": body}, "prev_events": r.last, "auth_events": r.auth(), "depth": r.depth + 1,
	}
}

// stateEvent is the next event as a state event.
func (r *room) stateEvent(kind, key string, content object, auth ...string) object {
	fields := r.message("")
	fields["type"], fields["state_key"], fields["content"], fields["auth_events"] = kind, key, content, r.auth(auth...)
	return fields
}

// advance makes an event the one that the peer's next one follows.
func (r *room) advance(e event) {
	r.last = []string{e.id}
	r.depth++
}

var transactions struct {
	mu sync.Mutex
	n  int
}

// transaction is a body of /send.
func (p *peer) transaction(pdus []json.RawMessage, edus ...any) object {
	if pdus == nil {
		pdus = []json.RawMessage{}
	}
	return object{"origin": p.name, "origin_server_ts": time.Now().UnixMilli(), "pdus": pdus, "edus": edus}
}

// push sends a transaction.
func (p *peer) push(body object) harness.Response {
	p.t.Helper()
	return p.do("PUT", "/_matrix/federation/v1/send/"+nextTransaction(), marshal(body))
}

func nextTransaction() string {
	transactions.mu.Lock()
	defer transactions.mu.Unlock()
	transactions.n++
	return fmt.Sprint("txn", transactions.n)
}

// send pushes one event and returns what the target says of it: empty when it took it.
func (r *room) send(t *testing.T, e event) string {
	t.Helper()
	resp := r.peer.push(r.peer.transaction([]json.RawMessage{e.raw})).WantOK(t)
	result := resp.Get("pdus." + escape(e.id))
	if !result.Exists() {
		t.Fatalf("the answer says nothing of %s: %s", e.id, resp.Body)
	}
	return result.Get("error").Str
}
