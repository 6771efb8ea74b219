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
		profile, err := s.remote.Profile(ctx, user, field)
		if err != nil && matrixerr.CodeOf(err) == "" {
			s.log.InfoContext(ctx, "a profile could not be asked for", "user", user, "error", err)
			err = matrixerr.New(matrixerr.Unknown, "%s could not be asked for the profile", user.Server()).WithStatus(502)
		}
		if err != nil {
			return nil, err
		}
		if field == "" && profile != nil {
			return profile, nil
		}
		value, ok := profile[field]
		if !ok {
			return nil, notFound(storage.ErrNotFound, "there is no such profile")
		}
		return map[string]json.RawMessage{field: value}, nil
	}
	profile, err := s.localProfile(ctx, user, field)
	if errors.Is(err, storage.ErrNotFound) {
		if made, err := s.MakeOnDemand(ctx, user); err != nil {
			return nil, err
		} else if made {
			profile, err = s.localProfile(ctx, user, field)
			return profile, notFound(err, "there is no such profile")
		}
	}
	return profile, notFound(err, "there is no such profile")
}

// MakeOnDemand has a user of ours made who is not there, if somebody does so, and says whether they were.
//
// spec: application-service-api.md#querying
func (s *Server) MakeOnDemand(ctx context.Context, user id.UserID) (made bool, err error) {
	if s.findUser == nil || !s.Local(user) {
		return false, nil
	}
	_, err = storage.Get(ctx, s.db, func(tx *storage.Tx) (storage.User, error) { return tx.GetUser(user) })
	if !errors.Is(err, storage.ErrNotFound) {
		return false, err
	}
	return s.findUser(ctx, user)
}

// localProfile is the profile of a user of ours.
func (s *Server) localProfile(ctx context.Context, user id.UserID, field string) (map[string]json.RawMessage, error) {
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
	return profile, err
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
		if field == displayNameField {
			if err := listAs(tx, user, unquote(profile[field]), unquote(string(value))); err != nil {
				return err
			}
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
