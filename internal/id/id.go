package id

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxLength is the most bytes that a user ID, room ID, room alias, event ID,
// event type or state key may have, sigil and domain included.
//
// spec: appendices.md#common-identifier-format
const MaxLength = 255

type (
	// ServerName is a homeserver's name: a host, perhaps with a port. "example.org:8448".
	ServerName string
	// UserID is a user's full identifier. "@alice:example.org".
	UserID string
	// RoomID names a room. "!opaque:example.org", and from room version 12 on "!" and the
	// create event's hash, without a server name.
	RoomID string
	// RoomAlias is a readable name that points to a room. "#lobby:example.org".
	RoomAlias string
	// EventID names an event. "$opaque:example.org" in room versions 1 and 2, "$" and the
	// event's reference hash since.
	EventID string
	// DeviceID names one of a user's devices. "GHTYAJCE".
	DeviceID string
	// RoomVersion names a set of rules for a room. "12".
	RoomVersion string
	// Pos is a position in the log: every change that a client or another server must
	// learn of has one. The first is 1; 0 is before everything.
	Pos int64
)

var errTooLong = fmt.Errorf("is longer than %d bytes", MaxLength)

// ParseUserID checks s to be a user ID as other servers may have made it: the localpart of
// old accounts may have any character but ':' and NUL.
//
// spec: appendices.md#user-identifiers
func ParseUserID(s string) (UserID, error) {
	local, _, err := split(s, '@', true)
	if err != nil {
		return "", fmt.Errorf("user ID %w", err)
	}
	// An empty localpart is historical and must be tolerated over federation.
	_ = local
	return UserID(s), nil
}

// ParseRoomID checks s to be a room ID of any room version.
//
// spec: appendices.md#room-ids
func ParseRoomID(s string) (RoomID, error) {
	if len(s) > MaxLength {
		return "", fmt.Errorf("room ID %w", errTooLong)
	}
	if len(s) < 2 || s[0] != '!' {
		return "", errors.New("room ID does not start with '!'")
	}
	if !cleanText(s) {
		return "", errors.New("room ID has characters that are not allowed")
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		if _, err := ParseServerName(s[i+1:]); err != nil {
			return "", fmt.Errorf("room ID %w", err)
		}
	}
	return RoomID(s), nil
}

// ParseRoomAlias checks s to be a room alias.
//
// spec: appendices.md#room-aliases
func ParseRoomAlias(s string) (RoomAlias, error) {
	local, _, err := split(s, '#', false)
	if err != nil {
		return "", fmt.Errorf("room alias %w", err)
	}
	if local == "" {
		return "", errors.New("room alias has no local part")
	}
	return RoomAlias(s), nil
}

// ParseEventID checks s to be an event ID of any room version.
//
// spec: appendices.md#event-ids
func ParseEventID(s string) (EventID, error) {
	if len(s) > MaxLength {
		return "", fmt.Errorf("event ID %w", errTooLong)
	}
	if len(s) < 2 || s[0] != '$' || !cleanText(s) {
		return "", errors.New("event ID does not start with '$' or has characters that are not allowed")
	}
	return EventID(s), nil
}

// ParseServerName checks s against the grammar of server names.
//
// spec: appendices.md#server-name
func ParseServerName(s string) (ServerName, error) {
	if s == "" {
		return "", errors.New("server name is empty")
	}
	if len(s) > 230 {
		return "", errors.New("server name is too long")
	}
	host, port := s, ""
	if s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", errors.New("server name has an unclosed '['")
		}
		ip := s[1:end]
		if p := net.ParseIP(ip); p == nil || !strings.Contains(ip, ":") {
			return "", errors.New("server name has an invalid IPv6 address")
		}
		if rest := s[end+1:]; rest != "" {
			if rest[0] != ':' {
				return "", errors.New("server name goes on after its IPv6 address")
			}
			port = rest[1:]
			if port == "" {
				return "", errors.New("server name has an empty port")
			}
		}
	} else {
		if i := strings.IndexByte(s, ':'); i >= 0 {
			host, port = s[:i], s[i+1:]
			if port == "" {
				return "", errors.New("server name has an empty port")
			}
		}
		if host == "" {
			return "", errors.New("server name has no host")
		}
		for i := range len(host) {
			c := host[i]
			if c != '-' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return "", errors.New("server name has characters that are not allowed")
			}
		}
	}
	if port != "" {
		if len(port) > 5 {
			return "", errors.New("server name has an invalid port")
		}
		if n, err := strconv.ParseUint(port, 10, 32); err != nil || n > 65535 {
			return "", errors.New("server name has an invalid port")
		}
	}
	return ServerName(s), nil
}

// NewUserID joins a localpart and a server name; it checks nothing.
func NewUserID(localpart string, server ServerName) UserID {
	return UserID("@" + localpart + ":" + string(server))
}

// NewRoomAlias joins a localpart and a server name; it checks nothing.
func NewRoomAlias(localpart string, server ServerName) RoomAlias {
	return RoomAlias("#" + localpart + ":" + string(server))
}

// Localpart is the part between '@' and the first ':'.
func (u UserID) Localpart() string { return localOf(string(u)) }

// Server is the server that the user belongs to.
func (u UserID) Server() ServerName { return serverOf(string(u)) }

// Localpart is the part between '#' and the first ':'.
func (a RoomAlias) Localpart() string { return localOf(string(a)) }

// Server is the server that answers for the alias.
func (a RoomAlias) Server() ServerName { return serverOf(string(a)) }

// Server is the server that made the room, empty from room version 12 on.
func (r RoomID) Server() ServerName { return serverOf(string(r)) }

// ValidLocalpart says whether a new account may be called s: a-z, 0-9 and ._=-/+ only.
//
// spec: appendices.md#user-identifiers
func ValidLocalpart(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("._=-/+", rune(c)) {
			return false
		}
	}
	return true
}

func split(s string, sigil byte, emptyLocal bool) (local string, server ServerName, err error) {
	if len(s) > MaxLength {
		return "", "", errTooLong
	}
	if len(s) < 2 || s[0] != sigil {
		return "", "", fmt.Errorf("does not start with %q", string(sigil))
	}
	i := strings.IndexByte(s, ':')
	if i < 0 {
		return "", "", errors.New("has no server name")
	}
	if i == 1 && !emptyLocal {
		return "", "", errors.New("has no local part")
	}
	if !cleanText(s) {
		return "", "", errors.New("has characters that are not allowed")
	}
	server, err = ParseServerName(s[i+1:])
	return s[1:i], server, err
}

// cleanText is true for valid UTF-8 without NUL, as every opaque part must be.
func cleanText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

func localOf(s string) string {
	if s == "" {
		return ""
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		return s[1:i]
	}
	return s[1:]
}

func serverOf(s string) ServerName {
	if i := strings.IndexByte(s, ':'); i >= 0 {
		return ServerName(s[i+1:])
	}
	return ""
}

// NewEventID makes an event ID as room versions 1 and 2 have them.
func NewEventID(opaque string, server ServerName) EventID {
	return EventID("$" + opaque + ":" + string(server))
}
