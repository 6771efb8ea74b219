package remote

import (
	"strings"

	"parley/internal/id"
)

// Policy says which servers this node has to do with, in both directions.
type Policy struct {
	// Allow are patterns of server names with * and ?; only they are let in, unless it is empty.
	Allow []string
	// Deny are patterns of servers never to have to do with.
	Deny []string
}

// Allows says whether the node has to do with a server. A pattern may be for the name or, whatever
// its port is, for its host.
func (p Policy) Allows(server id.ServerName) bool {
	return !matchAny(p.Deny, server) && (len(p.Allow) == 0 || matchAny(p.Allow, server))
}

func matchAny(patterns []string, server id.ServerName) bool {
	name := strings.ToLower(string(server))
	host := name
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, ']') {
		host = name[:i]
	}
	for _, p := range patterns {
		p = strings.ToLower(p)
		if match(p, name) || match(p, host) {
			return true
		}
	}
	return false
}

// match says whether a pattern with wildcards is for all of a text. It goes back to the last star only,
// so its work is bounded by the product of both lengths.
//
// spec: appendices.md#glob-style-matching
func match(pattern, text string) bool {
	p, t, star, from := 0, 0, -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			from++
			p, t = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
