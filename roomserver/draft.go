package roomserver

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/sjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/signedjson"
	"parley/storage"
)

// maxEventBytes is the most that an event may take in canonical JSON, signatures included.
//
// spec: client-server-api/index.md#size-limits
const maxEventBytes = 65536

// draft is an event of ours that is not signed yet.
type draft struct {
	Room     id.RoomID // empty for the create event of a room whose ID is that event's hash
	Sender   id.UserID
	Type     string
	StateKey *string
	Content  []byte // canonical JSON
	Redacts  id.EventID
	TS       int64
}

// link is what an event refers to: an ID, and in room versions 1 and 2 also the hash.
type link struct {
	id   id.EventID
	hash string
}

// canonicalContent checks an event's content as a client gave it, and brings it into the
// form that is signed.
//
// spec: appendices.md#canonical-json
func canonicalContent(version id.RoomVersion, content []byte) ([]byte, error) {
	if !utf8.Valid(content) {
		return nil, matrixerr.New(matrixerr.NotJSON, "The content is not valid UTF-8.")
	}
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(version))
	if err != nil {
		return nil, matrixerr.New(matrixerr.UnsupportedRoomVersion, "Room version %q is not supported.", version)
	}
	if err := v.CheckCanonicalJSON(content); err != nil {
		return nil, matrixerr.New(matrixerr.BadJSON, "The content is not canonical JSON: numbers must be integers from -2^53+1 to 2^53-1.")
	}
	c, err := canonical(v, content)
	if err != nil {
		return nil, matrixerr.New(matrixerr.BadJSON, "The content is not canonical JSON: %s.", err)
	}
	if len(c) > maxEventBytes {
		return nil, matrixerr.New(matrixerr.TooLarge, "The event is larger than %d bytes.", maxEventBytes)
	}
	return c, nil
}

// canonical writes JSON in the canonical form of the room version, which is an old one where a
// fraction passes. The library's own writer does not do: see internal/signedjson.
func canonical(v gomatrixserverlib.IRoomVersion, text []byte) ([]byte, error) {
	if v.CheckCanonicalJSON([]byte("[0.5]")) == nil {
		return signedjson.CanonicalOfOld(text)
	}
	return signedjson.Canonical(text)
}

// build assembles, hashes and signs an event, in canonical form from the start: the library's
// builder does the same in ten times the time, and is the oracle in the tests.
//
// spec: server-server-api.md#adding-hashes-and-signatures-to-outgoing-events
func (s *Server) build(room *storage.Room, d *draft, prev, auth []link, depth int64) (*event, error) {
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(room.Version))
	if err != nil {
		return nil, matrixerr.New(matrixerr.UnsupportedRoomVersion, "Room version %q is not supported.", room.Version)
	}
	if err := checkFields(d); err != nil {
		return nil, err
	}
	hashed := v.EventFormat() == gomatrixserverlib.EventFormatV1
	var eventID id.EventID
	if hashed {
		eventID = id.NewEventID(rand.Text(), s.name)
	}

	var w eventWriter
	w.open()
	w.links("auth_events", auth, hashed)
	w.raw("content", d.Content)
	w.number("depth", depth)
	if hashed {
		w.text("event_id", string(eventID))
	}
	beforeHashes := w.Len()
	w.number("origin_server_ts", d.TS)
	w.links("prev_events", prev, hashed)
	if d.Redacts != "" {
		w.text("redacts", string(d.Redacts))
	}
	if d.Room != "" {
		w.text("room_id", string(d.Room))
	}
	w.text("sender", string(d.Sender))
	beforeSignatures := w.Len()
	if d.StateKey != nil {
		w.text("state_key", *d.StateKey)
	}
	w.text("type", d.Type)
	w.close()
	plain := w.Bytes()

	sum := sha256.Sum256(plain)
	hashes := []byte(`"hashes":{"sha256":"` + base64.RawStdEncoding.EncodeToString(sum[:]) + `"},`)
	unsigned := splice(plain, beforeHashes, hashes)

	redacted, err := redactedForm(v, d.Type, unsigned, len(d.Content))
	if err != nil {
		return nil, fmt.Errorf("redact for signing: %w", err)
	}
	signature := ed25519.Sign(s.key, redacted)
	if !hashed {
		sum := sha256.Sum256(redacted)
		encoding := base64.RawURLEncoding
		if v.EventIDFormat() == gomatrixserverlib.EventIDFormatV2 {
			encoding = base64.RawStdEncoding
		}
		eventID = id.EventID("$" + encoding.EncodeToString(sum[:]))
	}
	signatures := []byte(`"signatures":{"` + string(s.name) + `":{"` + string(s.keyID) + `":"` +
		base64.RawStdEncoding.EncodeToString(signature) + `"}},`)
	full := splice(unsigned, beforeSignatures+len(hashes), signatures)
	if len(full) > maxEventBytes {
		return nil, matrixerr.New(matrixerr.TooLarge, "The event is larger than %d bytes.", maxEventBytes)
	}
	return parseEvent(room.Version, storage.Event{ID: eventID, Room: room.NID, JSON: full})
}

// checkFields applies the limits of the fields that a client chooses. What servers would read in
// different ways is refused: they would have different rooms.
//
// spec: client-server-api/index.md#size-limits
func checkFields(d *draft) error {
	if !utf8.ValidString(d.Type) || d.StateKey != nil && !utf8.ValidString(*d.StateKey) {
		return matrixerr.New(matrixerr.InvalidParam, "The event type or the state key is not valid UTF-8.")
	}
	if len(d.Type) > id.MaxLength {
		return matrixerr.New(matrixerr.InvalidParam, "The event type is longer than %d bytes.", id.MaxLength)
	}
	if d.StateKey != nil && len(*d.StateKey) > id.MaxLength {
		return matrixerr.New(matrixerr.InvalidParam, "The state key is longer than %d bytes.", id.MaxLength)
	}
	if contentLookalikes(d.Type, d.Content) {
		return matrixerr.New(matrixerr.BadJSON, "The content has a name that differs from a specified one by the case of its letters alone.")
	}
	return nil
}

// keepsContent are the event types of which some room version's redaction keeps a part.
var keepsContent = map[string]bool{
	spec.MRoomMember: true, spec.MRoomCreate: true, spec.MRoomJoinRules: true, spec.MRoomPowerLevels: true,
	spec.MRoomHistoryVisibility: true, spec.MRoomAliases: true, spec.MRoomRedaction: true,
}

// redactedForm is the canonical JSON that an event's signature and reference hash are made
// of. For the events of which redaction leaves an empty content, which are nearly all, it
// is cut together without parsing; auth_events come before content.
func redactedForm(v gomatrixserverlib.IRoomVersion, eventType string, unsigned []byte, contentLen int) ([]byte, error) {
	if keepsContent[eventType] {
		redacted, err := v.RedactEventJSON(unsigned)
		if err != nil {
			return nil, err
		}
		if redacted, err = sjson.DeleteBytes(redacted, "signatures"); err != nil {
			return nil, err
		}
		return canonical(v, redacted)
	}
	const mark = `"content":`
	at := bytes.Index(unsigned, []byte(mark)) + len(mark)
	out := make([]byte, 0, len(unsigned)-contentLen+2)
	out = append(out, unsigned[:at]...)
	out = append(out, "{}"...)
	return append(out, unsigned[at+contentLen:]...), nil
}

func splice(b []byte, at int, insert []byte) []byte {
	out := make([]byte, 0, len(b)+len(insert))
	out = append(out, b[:at]...)
	out = append(out, insert...)
	return append(out, b[at:]...)
}

// eventWriter writes an object in canonical JSON; its fields must come sorted.
type eventWriter struct {
	bytes.Buffer
}

func (w *eventWriter) open() { w.WriteByte('{') }

// close ends the object: every field wrote a comma behind it.
func (w *eventWriter) close() {
	w.Truncate(w.Len() - 1)
	w.WriteByte('}')
}

func (w *eventWriter) name(name string) {
	w.WriteByte('"')
	w.WriteString(name)
	w.WriteString(`":`)
}

func (w *eventWriter) raw(name string, value []byte) {
	w.name(name)
	w.Write(value)
	w.WriteByte(',')
}

func (w *eventWriter) number(name string, value int64) {
	w.raw(name, strconv.AppendInt(nil, value, 10))
}

func (w *eventWriter) text(name, value string) {
	w.raw(name, appendCanonicalString(nil, value))
}

func (w *eventWriter) links(name string, links []link, hashed bool) {
	w.name(name)
	w.WriteByte('[')
	for i, l := range links {
		if i > 0 {
			w.WriteByte(',')
		}
		if hashed {
			w.WriteByte('[')
		}
		w.Write(appendCanonicalString(nil, string(l.id)))
		if hashed {
			w.WriteString(`,{"sha256":"` + l.hash + `"}]`)
		}
	}
	w.WriteString("],")
}

// appendCanonicalString writes a string with as few escapes as canonical JSON allows.
//
// spec: appendices.md#grammar
func appendCanonicalString(out []byte, s string) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\r':
			out = append(out, `\r`...)
		case c == '\t':
			out = append(out, `\t`...)
		case c == '\b':
			out = append(out, `\b`...)
		case c == '\f':
			out = append(out, `\f`...)
		case c < 0x20:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			out = append(out, c)
		}
	}
	return append(out, '"')
}

// linkTo refers to an event.
func linkTo(version id.RoomVersion, e *event) (link, error) {
	if version != "1" && version != "2" {
		return link{id: e.ID}, nil
	}
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(version))
	if err != nil {
		return link{}, err
	}
	redacted, err := v.RedactEventJSON(e.Event.JSON)
	if err != nil {
		return link{}, fmt.Errorf("hash event %s: %w", e.ID, err)
	}
	for _, field := range []string{"signatures", "unsigned"} {
		if redacted, err = sjson.DeleteBytes(redacted, field); err != nil {
			return link{}, fmt.Errorf("hash event %s: %w", e.ID, err)
		}
	}
	if redacted, err = canonical(v, redacted); err != nil {
		return link{}, fmt.Errorf("hash event %s: %w", e.ID, err)
	}
	sum := sha256.Sum256(redacted)
	return link{e.ID, base64.RawStdEncoding.EncodeToString(sum[:])}, nil
}
