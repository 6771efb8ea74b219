// Package token writes and reads the one kind of token that clients get for places in
// time: a position of the log and the log's epoch. The same token goes on a /sync, pages
// through /messages, and bounds /relations: it stands behind the event with that position.
//
// Positions below 0 are places in a room's history from before this node came to it.
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

// Format writes the token for a position of the log named epoch.
func Format(epoch string, pos int64) string {
	return "s" + strconv.FormatInt(pos, 10) + "_" + epoch
}

// Parse reads a token.
func Parse(epoch, s string) (pos int64, err error) {
	number, of, ok := strings.Cut(s, "_")
	if !ok || len(number) < 2 || number[0] != 's' || number[1] == '+' || len(s) > 64 {
		return 0, ErrInvalid
	}
	pos, err = strconv.ParseInt(number[1:], 10, 64)
	if err != nil {
		return 0, ErrInvalid
	}
	if of != epoch {
		return 0, ErrEpoch
	}
	return pos, nil
}
