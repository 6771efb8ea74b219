package userserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"slices"

	"github.com/tidwall/gjson"

	"parley/internal/filter"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/stream"
	"parley/storage"
)

// The types of account data that the server knows of.
const (
	FullyReadType   = "m.fully_read"
	PushRulesType   = "m.push_rules"
	TagType         = "m.tag"
	IgnoredUserType = "m.ignored_user_list"
)

// maxTags bounds the tags of one room.
const maxTags = 100

// GetAccountData is a piece of a user's account data; room is "" for what is global.
//
// spec: client-server-api/modules/account_data.md#client-config
func (s *Server) GetAccountData(ctx context.Context, user id.UserID, room id.RoomID, typ string) (json.RawMessage, error) {
	if room == "" && typ == PushRulesType {
		return s.pushRulesContent(ctx, user)
	}
	return s.storedAccountData(ctx, user, room, typ)
}

// storedAccountData is a piece of account data as it is kept.
func (s *Server) storedAccountData(ctx context.Context, user id.UserID, room id.RoomID, typ string) (json.RawMessage, error) {
	d, err := storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.AccountData, error) { return tx.GetAccountData(user, room, typ) })
	if err == nil && string(d.Content) == storage.NoAccountData {
		err = storage.ErrNotFound
	}
	return d.Content, notFound(err, "there is no account data of that type")
}

// SetAccountData writes a piece of a user's account data, as a client asks: the types that the
// server manages are refused. content is a JSON object; an empty one, or none, deletes what is there, which is [MSC3391].
//
// spec: client-server-api/modules/account_data.md#server-behaviour
//
// [MSC3391]: https://github.com/matrix-org/matrix-spec-proposals/pull/3391
func (s *Server) SetAccountData(ctx context.Context, user id.UserID, room id.RoomID, typ string, content json.RawMessage) error {
	switch {
	case typ == FullyReadType || typ == PushRulesType:
		return matrixerr.New(matrixerr.BadJSON, "%s cannot be set as account data", typ).WithStatus(405)
	case typ == "" || len(typ) > id.MaxLength || !cleanText(typ):
		return matrixerr.New(matrixerr.InvalidParam, "the type is empty, longer than %d bytes, or has characters that are not allowed", id.MaxLength)
	}
	if len(gjson.ParseBytes(content).Map()) == 0 {
		content = json.RawMessage(storage.NoAccountData)
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error { return putAccountData(tx, user, room, typ, content) })
}

// putAccountData writes a piece of account data and tells the user's clients, unless it was
// the same before.
func putAccountData(tx *storage.Tx, user id.UserID, room id.RoomID, typ string, content []byte) error {
	old, err := tx.GetAccountData(user, room, typ)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if err == nil && bytes.Equal(old.Content, content) || err != nil && string(content) == storage.NoAccountData {
		return nil
	}
	if err := tx.InsertAccountData(user, &storage.AccountData{Room: room, Type: typ, Pos: old.Pos, Content: content}); err != nil {
		return err
	}
	tx.OnPos(1, func(pos id.Pos) error {
		tx.Notify(stream.Notice{Pos: pos, Kind: stream.AccountData, User: user, Users: []id.UserID{user}})
		return tx.UpdateAccountDataPos(user, room, typ, pos)
	})
	return nil
}

// UpdateAccountData changes a piece of account data: fn is given what is there, nil for nothing,
// and gives what is to be there. Nobody else changes it in between.
func (s *Server) UpdateAccountData(ctx context.Context, user id.UserID, room id.RoomID, typ string, fn func(old []byte) ([]byte, error)) error {
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		if _, err := tx.LockUser(user); err != nil {
			return notFound(err, "there is no user %s", user)
		}
		old, err := tx.GetAccountData(user, room, typ)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		content, err := fn(old.Content)
		if err != nil {
			return err
		}
		return putAccountData(tx, user, room, typ, content)
	})
}

// Tags are a user's tags of a room.
type Tags map[string]json.RawMessage

func parseTags(content []byte) Tags {
	var c struct {
		Tags Tags `json:"tags"`
	}
	// Account data of this type may have been set as such, with anything in it.
	if content == nil || json.Unmarshal(content, &c) != nil || c.Tags == nil {
		return Tags{}
	}
	return c.Tags
}

// GetTags are the tags that a user has given a room.
//
// spec: client-server-api/modules/tags.md#room-tagging
func (s *Server) GetTags(ctx context.Context, user id.UserID, room id.RoomID) (Tags, error) {
	content, err := s.GetAccountData(ctx, user, room, TagType)
	if err != nil && !matrixerr.Is(err, matrixerr.NotFound) {
		return nil, err
	}
	return parseTags(content), nil
}

// SetTag gives a room a tag; content is a JSON object that says more of it.
func (s *Server) SetTag(ctx context.Context, user id.UserID, room id.RoomID, tag string, content json.RawMessage) error {
	if tag == "" || len(tag) > id.MaxLength || !cleanText(tag) {
		return matrixerr.New(matrixerr.InvalidParam, "the tag is empty, longer than %d bytes, or has characters that are not allowed", id.MaxLength)
	}
	return s.updateTags(ctx, user, room, func(tags Tags) error {
		tags[tag] = content
		if len(tags) > maxTags {
			return matrixerr.New(matrixerr.LimitExceeded, "a room has no more than %d tags", maxTags).WithStatus(400)
		}
		return nil
	})
}

// DeleteTag takes a tag from a room.
func (s *Server) DeleteTag(ctx context.Context, user id.UserID, room id.RoomID, tag string) error {
	return s.updateTags(ctx, user, room, func(tags Tags) error {
		delete(tags, tag)
		return nil
	})
}

func (s *Server) updateTags(ctx context.Context, user id.UserID, room id.RoomID, fn func(Tags) error) error {
	return s.UpdateAccountData(ctx, user, room, TagType, func(old []byte) ([]byte, error) {
		tags := parseTags(old)
		if err := fn(tags); err != nil {
			return nil, err
		}
		return json.Marshal(map[string]Tags{"tags": tags})
	})
}

// ListRoomAccountData is all that a user keeps here about a room.
func (s *Server) ListRoomAccountData(ctx context.Context, user id.UserID, room id.RoomID) ([]storage.AccountData, error) {
	all, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]storage.AccountData, error) {
		return tx.ListAccountData(user, 0, math.MaxInt64, false)
	})
	return slices.DeleteFunc(all, func(d storage.AccountData) bool { return d.Room != room }), err
}

// IgnoredUsers are those whom a user wants to hear nothing of.
//
// spec: client-server-api/modules/ignore_users.md#ignoring-users
func (s *Server) IgnoredUsers(ctx context.Context, user id.UserID) (map[id.UserID]bool, error) {
	content, err := s.GetAccountData(ctx, user, "", IgnoredUserType)
	if err != nil {
		if matrixerr.Is(err, matrixerr.NotFound) {
			err = nil
		}
		return nil, err
	}
	return ParseIgnoredUsers(content), nil
}

// ParseIgnoredUsers reads the content of m.ignored_user_list. What is not as it should be
// ignores nobody.
func ParseIgnoredUsers(content []byte) map[id.UserID]bool {
	var c struct {
		IgnoredUsers map[id.UserID]json.RawMessage `json:"ignored_users"`
	}
	if json.Unmarshal(content, &c) != nil {
		return nil
	}
	out := make(map[id.UserID]bool, len(c.IgnoredUsers))
	for user := range c.IgnoredUsers {
		out[user] = true
	}
	return out
}

// AddFilter keeps a filter and names it. The same filter has the same name again.
//
// spec: client-server-api/index.md#filtering
func (s *Server) AddFilter(ctx context.Context, user id.UserID, text json.RawMessage) (string, error) {
	if _, err := filter.Parse(text); err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	name := base64.RawURLEncoding.EncodeToString(sum[:12])
	if _, err := s.GetFilter(ctx, user, name); !matrixerr.Is(err, matrixerr.NotFound) {
		return name, err
	}
	return name, s.db.Write(ctx, func(tx *storage.Tx) error { return tx.InsertFilter(user, name, text) })
}

// GetFilter is a filter that the user has added.
func (s *Server) GetFilter(ctx context.Context, user id.UserID, name string) (json.RawMessage, error) {
	text, err := storage.Get(ctx, s.db, func(tx *storage.Tx) ([]byte, error) { return tx.GetFilter(user, name) })
	return text, notFound(err, "there is no filter %q", name)
}
