package userserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

// The fields that rooms show.
const (
	displayNameField = "displayname"
	avatarField      = "avatar_url"
)

// maxProfile is how large a profile may be.
//
// spec: client-server-api/index.md#profiles
const maxProfile = 64 << 10

// maxNameLength is how long a display name may be, which is copied into each room.
const maxNameLength = 256

var fieldName = regexp.MustCompile(`^(avatar_url|displayname|m\.tz|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+)$`)

// GetProfile is the profile of any user; field is "" for all of it.
//
// spec: client-server-api/index.md#profiles
func (s *Server) GetProfile(ctx context.Context, user id.UserID, field string) (map[string]json.RawMessage, error) {
	if field != "" {
		if err := checkFieldName(field); err != nil {
			return nil, err
		}
	}
	if !s.Local(user) {
		if s.remote == nil {
			return nil, matrixerr.New(matrixerr.NotFound, "the profile of %s is on another server, and this one talks to none", user)
		}
		return s.remote.Profile(ctx, user, field)
	}
	profile := make(map[string]json.RawMessage)
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		u, err := tx.GetUser(user)
		if err == nil && u.Deactivated {
			err = storage.ErrNotFound
		}
		if err != nil {
			return err
		}
		if field != "" {
			profile[field], err = tx.GetProfileField(user, field)
			return err
		}
		fields, err := tx.ListProfile(user)
		for _, f := range fields {
			profile[f.Field] = f.Value
		}
		return err
	})
	return profile, notFound(err, "there is no such profile")
}

func checkFieldName(field string) error {
	switch {
	case len(field) > id.MaxLength:
		return matrixerr.New(matrixerr.KeyTooLarge, "the name of the profile field is longer than %d bytes", id.MaxLength)
	case !fieldName.MatchString(field):
		return matrixerr.New(matrixerr.InvalidParam, "%q cannot be the name of a profile field", field)
	}
	return nil
}

// SetProfileField sets a field of a user's profile, or removes it when value is nil. Rooms
// are shown a new display name or avatar.
func (s *Server) SetProfileField(ctx context.Context, user id.UserID, field string, value json.RawMessage) error {
	if err := checkFieldName(field); err != nil {
		return err
	}
	value, err := checkFieldValue(field, value)
	if err != nil {
		return err
	}
	var profile map[string]string
	changed := false
	err = s.db.Write(ctx, func(tx *storage.Tx) error {
		if _, err := tx.LockUser(user); err != nil {
			return notFound(err, "there is no user %s", user)
		}
		fields, err := tx.ListProfile(user)
		if err != nil {
			return err
		}
		profile = make(map[string]string, len(fields)+1)
		for _, f := range fields {
			profile[f.Field] = string(f.Value)
		}
		if changed = profile[field] != string(value); !changed {
			return nil
		}
		if value == nil {
			delete(profile, field)
			return tx.DeleteProfileField(user, field)
		}
		profile[field] = string(value)
		if profileSize(profile) > maxProfile {
			return matrixerr.New(matrixerr.ProfileTooLarge, "the profile would be larger than %d bytes", maxProfile)
		}
		return tx.InsertProfileField(user, field, value)
	})
	if err != nil || !changed || field != displayNameField && field != avatarField {
		return err
	}
	if err := s.rooms.UpdateProfile(ctx, user, unquote(profile[displayNameField]), unquote(profile[avatarField])); err != nil {
		return fmt.Errorf("show the new profile of %s in rooms: %w", user, err)
	}
	s.presence.touch(user)
	return nil
}

// checkFieldValue is the value in the form in which it is kept, nil where the field is to be
// removed: an empty name or avatar is none.
func checkFieldValue(field string, value json.RawMessage) (json.RawMessage, error) {
	if value == nil {
		return nil, nil
	}
	var compact any
	if err := json.Unmarshal(value, &compact); err != nil {
		return nil, matrixerr.New(matrixerr.BadJSON, "the value of %s is not JSON", field)
	}
	switch field {
	case displayNameField, avatarField, "m.tz":
		text, ok := compact.(string)
		switch {
		case !ok:
			return nil, matrixerr.New(matrixerr.BadJSON, "%s must be a string", field)
		case strings.ContainsRune(text, 0):
			return nil, matrixerr.New(matrixerr.InvalidParam, "%s has characters that are not allowed", field)
		case text == "":
			return nil, nil
		case field == displayNameField && len([]rune(text)) > maxNameLength:
			return nil, matrixerr.New(matrixerr.InvalidParam, "the display name is longer than %d characters", maxNameLength)
		case field == avatarField && len(text) > 1024:
			return nil, matrixerr.New(matrixerr.InvalidParam, "avatar_url is longer than 1024 bytes")
		case field == "m.tz" && len(text) > id.MaxLength:
			return nil, matrixerr.New(matrixerr.InvalidParam, "m.tz is longer than %d bytes", id.MaxLength)
		}
		return json.Marshal(text)
	}
	return value, nil
}

// profileSize is the size of the profile as one JSON object.
func profileSize(profile map[string]string) int {
	size := 1
	for _, field := range slices.Collect(maps.Keys(profile)) {
		size += len(field) + len(profile[field]) + len(`"":,`)
	}
	return size
}

func unquote(text string) string {
	var out string
	if text == "" || json.Unmarshal([]byte(text), &out) != nil {
		return ""
	}
	return out
}

// DirectoryUser is a user that a search has found.
type DirectoryUser struct {
	User        id.UserID
	DisplayName string
	AvatarURL   string
}

// maxAcquaintances bounds the members of shared rooms that a search looks at.
const maxAcquaintances = 10_000

// SearchUsers are up to limit users whose ID or display name contains term: those who share a
// room with the one who asks, or are in one that is open to all; and of our own all, if the node
// is set so. limited says that there are more.
//
// spec: client-server-api/index.md#user-directory
func (s *Server) SearchUsers(ctx context.Context, asker id.UserID, term string, limit int) (users []DirectoryUser, limited bool, err error) {
	term = strings.ToLower(strings.TrimSpace(term))
	if term == "" || strings.ContainsRune(term, 0) {
		return nil, false, nil
	}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		users = nil
		ours, err := tx.ListDirectory(asker, s.findAll, term, limit+2)
		if err != nil {
			return err
		}
		for _, e := range ours {
			if e.User == asker {
				continue
			}
			avatar, err := tx.GetProfileField(e.User, avatarField)
			if err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
			users = append(users, DirectoryUser{e.User, unquote(e.Name), unquote(string(avatar))})
		}
		if len(users) > limit {
			return nil
		}
		others, err := tx.ListAcquaintances(asker, maxAcquaintances)
		if err != nil {
			return err
		}
		users = append(users, matching(others, term)...)
		return nil
	})
	if len(users) > limit {
		users, limited = users[:limit], true
	}
	return users, limited, err
}

// matching are those of the entries whose user ID or display name contains term, each user once.
func matching(entries []storage.DirectoryEntry, term string) []DirectoryUser {
	var out []DirectoryUser
	seen := make(map[id.UserID]bool, len(entries))
	for _, e := range entries {
		if seen[e.User] {
			continue
		}
		seen[e.User] = true
		var event struct {
			Content struct {
				DisplayName any `json:"displayname"`
				AvatarURL   any `json:"avatar_url"`
			} `json:"content"`
		}
		if err := json.Unmarshal(e.Content, &event); err != nil {
			continue
		}
		name, _ := event.Content.DisplayName.(string)
		avatar, _ := event.Content.AvatarURL.(string)
		if strings.Contains(strings.ToLower(string(e.User)), term) || strings.Contains(strings.ToLower(name), term) {
			out = append(out, DirectoryUser{e.User, name, avatar})
		}
	}
	return out
}
