// Package token writes and reads the one kind of token that clients get for places in
// time: a position of the log and the log's epoch. The same token goes on a /sync, pages
// through /messages, and bounds /relations: it stands behind the event with that position.
//
// Positions below 0 are places in a room's history from before this node came to it.
//
// What /sync gives out says one thing more: how much of typing and presence, which are not
// in the log, the client has been told, as a number that one process counts by, and the name
// of that process; and what sliding sync gives out, the state of the client's connection.
// Everybody else passes over it.
//
// spec: appendices.md#pagination
package token

import (
	"errors"
	"strconv"
	"strings"
)

// ErrInvalid says that a token is none of ours.
var ErrInvalid = errors.New("not a token of this server")

// ErrEpoch says that a token is of a log that this one has replaced.
var ErrEpoch = errors.New("a token of a log that was replaced")

// Format writes the token for a position of the log named epoch: "s17_ABCDEFGH".
func Format(epoch string, pos int64) string {
	return string(Append(nil, epoch, pos))
}

// Append appends the token for a position to b.
func Append(b []byte, epoch string, pos int64) []byte {
	b = strconv.AppendInt(append(b, 's'), pos, 10)
	return append(append(b, '_'), epoch...)
}

// AppendSync appends the token that /sync gives out to b: "s17_ABCDEFGH_K2V3.5". seq counts
// in the life that is named.
func AppendSync(b []byte, epoch string, pos int64, life string, seq uint64) []byte {
	b = append(Append(b, epoch, pos), '_')
	b = append(append(b, life...), '.')
	return strconv.AppendUint(b, seq, 10)
}

// Connection names what a connection of sliding sync was told: a state of it, by the number
// that it has among those of its device's connection. State 0 is that of one that was told of no
// room.
type Connection struct {
	Device, State int64
}

// AppendSliding appends the token that sliding sync gives out to b: that of /sync, and the state
// of the connection, "s17_ABCDEFGH_K2V3.5_8.3".
func AppendSliding(b []byte, epoch string, pos int64, life string, seq uint64, c Connection) []byte {
	b = append(AppendSync(b, epoch, pos, life, seq), '_')
	b = append(strconv.AppendInt(b, c.Device, 10), '.')
	return strconv.AppendInt(b, c.State, 10)
}

// ParseSliding reads a token as sliding sync gives it out.
func ParseSliding(epoch, life, s string) (pos int64, seq uint64, c Connection, err error) {
	if pos, seq, err = ParseSync(epoch, life, s); err != nil {
		return 0, 0, c, err
	}
	parts := strings.Split(s, "_")
	if len(parts) != 4 {
		return 0, 0, c, ErrInvalid
	}
	if c, err = parseConnection(parts[3]); err != nil {
		return 0, 0, c, err
	}
	return pos, seq, c, nil
}

func parseConnection(s string) (c Connection, err error) {
	device, state, ok := strings.Cut(s, ".")
	if c.Device, err = strconv.ParseInt(device, 10, 64); err == nil && ok {
		c.State, err = strconv.ParseInt(state, 10, 64)
	}
	if err != nil || !ok || c.Device < 0 || c.State < 0 {
		return Connection{}, ErrInvalid
	}
	return c, nil
}

// Parse reads a token.
func Parse(epoch, s string) (pos int64, err error) {
	pos, _, err = ParseSync(epoch, "", s)
	return pos, err
}

// ParseSync reads a token as /sync gives it out, or without what only /sync says; seq is 0
// where it counts in another life than that which is named.
func ParseSync(epoch, life, s string) (pos int64, seq uint64, err error) {
	number, rest, ok := strings.Cut(s, "_")
	if !ok || len(number) < 2 || number[0] != 's' || number[1] == '+' || len(s) > 128 {
		return 0, 0, ErrInvalid
	}
	pos, err = strconv.ParseInt(number[1:], 10, 64)
	if err != nil {
		return 0, 0, ErrInvalid
	}
	of, told, hasTold := strings.Cut(rest, "_")
	if hasTold {
		var connection string
		var has bool
		if told, connection, has = strings.Cut(told, "_"); has {
			if _, err := parseConnection(connection); err != nil {
				return 0, 0, err
			}
		}
		in, count, ok := strings.Cut(told, ".")
		n, err := strconv.ParseUint(count, 10, 64)
		if !ok || err != nil {
			return 0, 0, ErrInvalid
		}
		if in == life {
			seq = n
		}
	}
	if of != epoch {
		return 0, 0, ErrEpoch
	}
	return pos, seq, nil
}
