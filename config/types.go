package config

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

// Path names a file or a folder. In a file's settings it may be relative to the folder of
// that file; Load makes it absolute or relative to the working directory.
type Path string

// Secret is a text that must not be shown: however it is printed or logged, only Reveal
// gives it away.
type Secret string

// Reveal is the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(secret)"
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText hides the secret from encoders, JSON and YAML among them.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue hides the secret from logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Size is a number of bytes.
type Size int64

// The units of a Size.
const (
	KiB Size = 1 << (10 * (iota + 1))
	MiB
	GiB
)

var sizeUnits = []struct {
	name  string
	bytes Size
}{{"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}}

// ParseSize reads "50 MiB", "64KiB", "10 MB" or "512 B". A bare number is refused, except 0.
func ParseSize(s string) (Size, error) {
	bad := errors.New(`must be a size with a unit, such as "50 MiB"`)
	if s == "0" {
		return 0, nil
	}
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimRight(digits, " "), 10, 62)
		if err != nil {
			return 0, bad
		}
		if Size(n) > (1<<62)/u.bytes {
			return 0, errors.New("is too large")
		}
		return Size(n) * u.bytes, nil
	}
	return 0, bad
}

// String is the size in the largest binary unit that has no fraction: "64 KiB".
func (s Size) String() string {
	for _, u := range sizeUnits[:3] {
		if s != 0 && s%u.bytes == 0 {
			return fmt.Sprintf("%d %s", s/u.bytes, u.name)
		}
	}
	return fmt.Sprintf("%d B", int64(s))
}

// choice is a setting with a few words to choose from.
type choice interface{ Choices() []string }

// Durability is when a write counts as done.
type Durability string

// The kinds of durability.
const (
	Full    Durability = "full"    // when it is on the disk
	Relaxed Durability = "relaxed" // when the operating system has it
)

// Choices are the values of the setting.
func (Durability) Choices() []string { return words(Full, Relaxed) }

// RegistrationMode is who may make an account.
type RegistrationMode string

// The modes of registration.
const (
	Nobody RegistrationMode = "nobody"
	Token  RegistrationMode = "token"
	Anyone RegistrationMode = "anyone"
)

// Choices are the values of the setting.
func (RegistrationMode) Choices() []string { return words(Nobody, Token, Anyone) }

// Presence is who learns which users are online.
type Presence string

// The kinds of presence.
const (
	PresenceFull  Presence = "full"
	PresenceLocal Presence = "local"
	PresenceOff   Presence = "off"
)

// Choices are the values of the setting.
func (Presence) Choices() []string { return words(PresenceFull, PresenceLocal, PresenceOff) }

// Publish is who may list a room in the public directory.
type Publish string

// The kinds of Publish.
const (
	PublishEveryone Publish = "everyone"
	PublishAdmins   Publish = "admins"
	PublishNobody   Publish = "nobody"
)

// Choices are the values of the setting.
func (Publish) Choices() []string { return words(PublishEveryone, PublishAdmins, PublishNobody) }

// Level is how important a line of the log is.
type Level string

// The levels of the log.
const (
	LevelDebug Level = "debug"
	LevelInfo  Level = "info"
	LevelWarn  Level = "warn"
	LevelError Level = "error"
)

// Choices are the values of the setting.
func (Level) Choices() []string { return words(LevelDebug, LevelInfo, LevelWarn, LevelError) }

// Slog is the level of package slog.
func (l Level) Slog() slog.Level {
	switch l {
	case LevelDebug:
		return slog.LevelDebug
	case LevelWarn:
		return slog.LevelWarn
	case LevelError:
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

// LogFormat is how a line of the log is written.
type LogFormat string

// The formats of the log.
const (
	FormatText LogFormat = "text"
	FormatJSON LogFormat = "json"
)

// Choices are the values of the setting.
func (LogFormat) Choices() []string { return words(FormatText, FormatJSON) }

func words[T ~string](values ...T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}
