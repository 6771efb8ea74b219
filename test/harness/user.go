package harness

import (
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// User is an account and one device of it, seen through mautrix-go. The methods here fail the test when the server
// refuses; for a request that should be refused, call the embedded client and hand the error to WantError.
type User struct {
	*mautrix.Client
	Server   *Server
	Password string

	t testing.TB
}

// Register makes an account whose name begins with name, and logs it in.
func (s *Server) Register(t testing.TB, name string) *User {
	t.Helper()
	u := s.Anonymous(t)
	u.Password = "password of " + name
	resp, err := u.RegisterDummy(t.Context(), &mautrix.ReqRegister[any]{
		Username:                 name + "-" + strings.ToLower(rand.Text()[:8]),
		Password:                 u.Password,
		InitialDeviceDisplayName: name + "'s first device",
	})
	u.must("register", err)
	u.UserID, u.DeviceID, u.AccessToken = resp.UserID, resp.DeviceID, resp.AccessToken
	return u
}

// Administrator makes an account with the power to administrate the server, by the command for that, and logs it in.
func (s *Server) Administrator(t testing.TB, name string) *User {
	t.Helper()
	out, status := s.Command("user", "create", name, "--admin")
	if status != 0 {
		t.Fatalf("user create: %s", out)
	}
	u := s.Anonymous(t)
	u.UserID, u.Password = id.UserID(name), PasswordIn(t, out)
	return u.Login()
}

// PasswordIn finds the password that a command told.
func PasswordIn(t testing.TB, out string) string {
	t.Helper()
	_, password, found := strings.Cut(out, "the password is ")
	if !found {
		t.Fatalf("no password in %q", out)
	}
	password, _, _ = strings.Cut(password, "\n") // warnings may follow
	return strings.TrimSuffix(password, ".")
}

// Anonymous is a client that has not logged in.
func (s *Server) Anonymous(t testing.TB) *User {
	t.Helper()
	client, err := mautrix.NewClient(s.URL, "", "")
	if err != nil {
		t.Fatal(err)
	}
	client.Client = httpClient
	return &User{Client: client, Server: s, t: t}
}

// In is the same user in a subtest, which then is the one to fail.
func (u *User) In(t testing.TB) *User {
	bound := *u
	bound.t = t
	return &bound
}

// Login is the same account on a further device.
func (u *User) Login() *User {
	u.t.Helper()
	other := u.Server.Anonymous(u.t)
	other.Password = u.Password
	_, err := other.Client.Login(u.t.Context(), &mautrix.ReqLogin{
		Type:             mautrix.AuthTypePassword,
		Identifier:       mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: u.UserID.String()},
		Password:         u.Password,
		StoreCredentials: true,
	})
	u.must("log in", err)
	return other
}

// Do sends one request with the user's access token, as Server.Do does.
func (u *User) Do(method, path string, body any) Response {
	u.t.Helper()
	return u.Server.Do(u.t, method, path, u.AccessToken, body)
}

// Path joins segments to a path under /_matrix/client, each percent-encoded.
func Path(segments ...string) string {
	var b strings.Builder
	b.WriteString("/_matrix/client")
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

// NewRoom makes a room and returns its id. A nil request is a private room.
func (u *User) NewRoom(req *mautrix.ReqCreateRoom) id.RoomID {
	u.t.Helper()
	if req == nil {
		req = &mautrix.ReqCreateRoom{Preset: "private_chat"}
	}
	resp, err := u.CreateRoom(u.t.Context(), req)
	u.must("create a room", err)
	return resp.RoomID
}

// NewRoomWith makes a private room that the others have been invited to and have joined.
func (u *User) NewRoomWith(others ...*User) id.RoomID {
	u.t.Helper()
	req := &mautrix.ReqCreateRoom{Preset: "private_chat"}
	for _, other := range others {
		req.Invite = append(req.Invite, other.UserID)
	}
	room := u.NewRoom(req)
	for _, other := range others {
		other.Join(room)
	}
	return room
}

func (u *User) Invite(room id.RoomID, other *User) {
	u.t.Helper()
	_, err := u.InviteUser(u.t.Context(), room, &mautrix.ReqInviteUser{UserID: other.UserID})
	u.must("invite", err)
}

func (u *User) Join(room id.RoomID) {
	u.t.Helper()
	_, err := u.JoinRoomByID(u.t.Context(), room)
	u.must("join", err)
}

func (u *User) Leave(room id.RoomID) {
	u.t.Helper()
	_, err := u.LeaveRoom(u.t.Context(), room)
	u.must("leave", err)
}

// Say sends a text message.
func (u *User) Say(room id.RoomID, text string) id.EventID {
	u.t.Helper()
	return u.Send(room, event.EventMessage, map[string]any{"msgtype": "m.text", "body": text})
}

// Send sends an event that is not state.
func (u *User) Send(room id.RoomID, kind event.Type, content any) id.EventID {
	u.t.Helper()
	resp, err := u.SendMessageEvent(u.t.Context(), room, kind, content)
	u.must("send "+kind.Type, err)
	return resp.EventID
}

// SetState sends a state event.
func (u *User) SetState(room id.RoomID, kind event.Type, key string, content any) id.EventID {
	u.t.Helper()
	resp, err := u.SendStateEvent(u.t.Context(), room, kind, key, content)
	u.must("set state "+kind.Type, err)
	return resp.EventID
}

// StateContent reads one piece of a room's state.
func (u *User) StateContent(room id.RoomID, kind event.Type, key string) map[string]any {
	u.t.Helper()
	content := map[string]any{}
	u.must("read state "+kind.Type, u.StateEvent(u.t.Context(), room, kind, key, &content))
	return content
}

// Redact removes an event's content.
func (u *User) Redact(room id.RoomID, target id.EventID, reason string) id.EventID {
	u.t.Helper()
	resp, err := u.RedactEvent(u.t.Context(), room, target, mautrix.ReqRedact{Reason: reason})
	u.must("redact", err)
	return resp.EventID
}

// Event fetches one event.
func (u *User) Event(room id.RoomID, target id.EventID) *event.Event {
	u.t.Helper()
	evt, err := u.GetEvent(u.t.Context(), room, target)
	u.must("fetch an event", err)
	return evt
}

// Page reads the room through /messages from a token (or the end that the direction begins at) to its other end, in
// pages of the size, and returns all events in the order they came.
func (u *User) Page(room id.RoomID, from string, dir mautrix.Direction, size int) []*event.Event {
	u.t.Helper()
	var all []*event.Event
	for pages := 0; ; pages++ {
		resp, err := u.Messages(u.t.Context(), room, from, "", dir, nil, size)
		u.must("page", err)
		if len(resp.Chunk) > size {
			u.t.Fatalf("a page of %d events; asked for at most %d", len(resp.Chunk), size)
		}
		all = append(all, resp.Chunk...)
		// A page may be short or empty with more behind it; only a missing end is the end.
		// spec: client-server-api/index.md#get_matrixclientv3roomsroomidmessages
		if resp.End == "" {
			return all
		}
		if resp.End == from {
			u.t.Fatalf("page %d ends where it began, at %q", pages, from)
		}
		from = resp.End
	}
}

// UIA is the password stage of user-interactive authentication, in the session that a refused request was given.
func (u *User) UIA(session string) any {
	return map[string]any{
		"type":       mautrix.AuthTypePassword,
		"identifier": map[string]any{"type": mautrix.IdentifierTypeUser, "user": u.UserID},
		"password":   u.Password,
		"session":    session,
	}
}

func (u *User) must(what string, err error) {
	u.t.Helper()
	if err != nil {
		u.t.Fatalf("%s: %s: %v", u.UserID, what, err)
	}
}

// WantError fails the test unless the request was refused with the status and the errcode. Where the specification
// leaves the choice, errcode names all that may come: "M_BAD_JSON|M_INVALID_PARAM".
func WantError(t testing.TB, err error, status int, errcode string) {
	t.Helper()
	var httpErr mautrix.HTTPError
	if !errors.As(err, &httpErr) || httpErr.Response == nil {
		t.Fatalf("got error %v; want status %d %s", err, status, errcode)
	}
	got := "no errcode"
	if httpErr.RespError != nil {
		got = httpErr.RespError.ErrCode
	}
	if httpErr.Response.StatusCode != status || !oneOf(got, errcode) {
		t.Fatalf("got %v; want status %d %s", err, status, errcode)
	}
	if httpErr.RespError.Err == "" {
		t.Fatalf("%s came without a sentence that says what was wrong", errcode)
	}
}

// oneOf tells whether code is among those of "A|B".
func oneOf(code, codes string) bool {
	return slices.Contains(strings.Split(codes, "|"), code)
}

// WantOK fails the test unless the answer's status is 200.
func (r Response) WantOK(t testing.TB) Response {
	t.Helper()
	if r.Status != http.StatusOK {
		t.Fatalf("got %d %s; want 200", r.Status, r.Body)
	}
	return r
}

// WantError fails the test unless the answer is a refusal with the status, the errcode (or one of several, as for the
// function of that name) and a sentence.
func (r Response) WantError(t testing.TB, status int, errcode string) Response {
	t.Helper()
	if r.Status != status || !oneOf(r.Get("errcode").String(), errcode) {
		t.Errorf("got %d %s; want %d %s", r.Status, r.Body, status, errcode)
	} else if r.Get("error").String() == "" {
		t.Errorf("%d %s came without a sentence that says what was wrong", status, errcode)
	}
	return r
}
