package roomserver

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/serverapi"
	"parley/storage"
)

// complete makes a member event of one of our users from another server's template: its links
// and depth are taken from there, and what the rules need of a restricted join; all else must be
// what we asked for, and is what we say.
//
// spec: server-server-api.md#joining-rooms
func (s *Server) complete(ctx context.Context, t *serverapi.Template, r *MemberRequest, membership string) (*event, error) {
	version := t.RoomVersion
	if version == "" {
		version = "1" // as the specification had it before there were versions
	}
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(version))
	if _, ok := Versions()[version]; !ok || err != nil {
		return nil, matrixerr.New(matrixerr.UnsupportedRoomVersion, "The room's version %q is not supported by this server.", version)
	}
	bad := func(format string, args ...any) error {
		return matrixerr.New(matrixerr.BadJSON, "the template of an event: "+format, args...)
	}
	if !gjson.ValidBytes(t.Event) {
		return nil, bad("not JSON")
	}
	for field, want := range map[string]string{
		"type": spec.MRoomMember, "room_id": string(r.Room), "sender": string(r.Sender), "state_key": string(r.Sender),
		"content.membership": membership,
	} {
		if got := gjson.GetBytes(t.Event, field); got.Str != want {
			return nil, bad("%s is %q", field, got.Str)
		}
	}
	hashed := v.EventFormat() == gomatrixserverlib.EventFormatV1
	prev, err := readLinks(gjson.GetBytes(t.Event, "prev_events"), hashed, maxPrevEvents)
	if err != nil || len(prev) == 0 {
		return nil, bad("prev_events can't be used")
	}
	auth, err := readLinks(gjson.GetBytes(t.Event, "auth_events"), hashed, maxAuthEvents)
	if err != nil {
		return nil, bad("auth_events can't be used")
	}
	depth := gjson.GetBytes(t.Event, "depth").Int()
	if depth < 0 || depth > maxDepth {
		return nil, bad("depth can't be used")
	}
	extra := r.extra()
	if authoriser := gjson.GetBytes(t.Event, "content."+authorisedVia); authoriser.Exists() && membership == spec.Join {
		if _, err := id.ParseUserID(authoriser.Str); err != nil {
			return nil, bad("join_authorised_via_users_server is not a user")
		}
		extra[authorisedVia] = authoriser.Str
	}
	var content []byte
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		content, err = s.memberContent(tx, version, r.Sender, membership, extra)
		return err
	})
	if err != nil {
		return nil, err
	}
	key := string(r.Sender)
	d := &draft{Room: r.Room, Sender: r.Sender, Type: spec.MRoomMember, StateKey: &key, Content: content, TS: s.now()}
	return s.build(&storage.Room{ID: r.Room, Version: version}, d, prev, auth, depth)
}

// readLinks reads prev_events or auth_events: IDs, or in old room versions pairs of an ID and hashes.
func readLinks(list gjson.Result, hashed bool, most int) ([]link, error) {
	all := list.Array()
	if !list.IsArray() || len(all) > most {
		return nil, fmt.Errorf("%d links", len(all))
	}
	links := make([]link, len(all))
	for i, l := range all {
		if hashed {
			links[i] = link{id: id.EventID(l.Get("0").Str), hash: l.Get("1.sha256").Str}
		} else {
			links[i] = link{id: id.EventID(l.Str)}
		}
		if _, err := id.ParseEventID(string(links[i].id)); err != nil {
			return nil, err
		}
		for _, c := range []byte(links[i].hash) {
			if c == '"' || c == '\\' || c < 0x20 {
				return nil, fmt.Errorf("hash %q", links[i].hash)
			}
		}
	}
	return links, nil
}

// countersigned is an event of ours with the signature that another server added to it. That is
// all that is taken from what it gave back.
//
// spec: server-server-api.md#restricted-rooms
func (s *Server) countersigned(ctx context.Context, e *event, by id.ServerName, answer json.RawMessage) (*event, error) {
	var signatures struct {
		Signatures serverapi.Signatures `json:"signatures"`
	}
	if err := json.Unmarshal(answer, &signatures); err != nil || len(signatures.Signatures[by]) == 0 {
		return nil, matrixerr.New(matrixerr.Forbidden, "%s did not sign the event.", by)
	}
	return s.withSignatures(ctx, e, by, signatures.Signatures[by])
}

// maxSignatures bounds the signatures that one server may add to an event.
const maxSignatures = 5

// withSignatures is an event with further signatures by a server, which must be good.
func (s *Server) withSignatures(ctx context.Context, e *event, by id.ServerName, signatures map[string]string) (*event, error) {
	full, err := addSignatures(id.RoomVersion(e.Version()), e.Event.JSON, by, signatures)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", e.ID, err)
	}
	v, err := gomatrixserverlib.GetRoomVersion(e.Version())
	if err != nil {
		return nil, err
	}
	redacted, err := v.RedactEventJSON(full)
	if err != nil {
		return nil, fmt.Errorf("redact %s: %w", e.ID, err)
	}
	results, err := s.remote.VerifyJSONs(ctx, []gomatrixserverlib.VerifyJSONRequest{{
		ServerName: spec.ServerName(by), AtTS: e.OriginServerTS(), Message: redacted, ValidityCheckingFunc: v.SignatureValidityCheck,
	}})
	if err == nil && len(results) > 0 {
		err = results[0].Error
	}
	if err != nil {
		return nil, matrixerr.New(matrixerr.Forbidden, "The signature of %s could not be verified.", by)
	}
	return parseEvent(id.RoomVersion(e.Version()), storage.Event{ID: e.ID, Room: e.Room, JSON: full})
}

// addSignatures adds signatures of a server to an event's text, which it gives in canonical form.
func addSignatures(version id.RoomVersion, text []byte, by id.ServerName, signatures map[string]string) ([]byte, error) {
	v, err := gomatrixserverlib.GetRoomVersion(gomatrixserverlib.RoomVersion(version))
	if err != nil {
		return nil, err
	}
	all := make(serverapi.Signatures)
	if err := json.Unmarshal([]byte(gjson.GetBytes(text, "signatures").Raw), &all); err != nil {
		return nil, matrixerr.New(matrixerr.BadJSON, "The event's signatures can't be read.")
	}
	if all[by] == nil {
		all[by] = make(map[string]string)
	}
	for key, signature := range signatures {
		if len(all[by]) < maxSignatures {
			all[by][key] = signature
		}
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	if text, err = sjson.SetRawBytes(text, "signatures", raw); err != nil {
		return nil, err
	}
	if text, err = canonical(v, text); err != nil {
		return nil, err
	}
	if len(text) > maxEventBytes {
		return nil, matrixerr.New(matrixerr.TooLarge, "The event is larger than %d bytes.", maxEventBytes)
	}
	return text, nil
}
