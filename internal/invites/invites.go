// Package invites says what becomes of an invite by what the invited user has set: it comes, it is refused, or it
// comes and is not shown.
//
// spec: client-server-api/modules/invite_permission.md#invite-permission
package invites

import (
	"encoding/json"

	"parley/internal/glob"
	"parley/internal/id"
)

// The account data in which users say whose invites they want. The second has the finer rules of MSC4155, which the
// specification has not taken up.
const (
	PermissionType = "m.invite_permission_config"
	FilterType     = "org.matrix.msc4155.invite_permission_config"
)

// Decision is what becomes of an invite.
type Decision uint8

// The decisions.
const (
	// Allow: the user sees it.
	Allow Decision = iota
	// Ignore: who invites learns nothing, and the user neither.
	Ignore
	// Block: it is refused.
	Block
)

// Permission is what a user has set. The zero value allows all.
type Permission struct {
	blockAll bool
	rules    []rule
}

// rule decides of the senders that a pattern matches.
type rule struct {
	pattern  string
	server   bool // it is about the sender's server
	decision Decision
}

// Parse reads the account data of both types, nil where there is none. Clients write it, so there may be anything in
// it; what is not as it should be says nothing.
func Parse(permission, filter []byte) Permission {
	var p Permission
	action, _ := fields(permission)["default_action"].(string)
	p.blockAll = action == "block"
	set := fields(filter)
	if enabled, ok := set["enabled"].(bool); ok && !enabled {
		return p
	}
	// The order is that in which they are looked at.
	for _, list := range []struct {
		field    string
		server   bool
		decision Decision
	}{
		{"allowed_users", false, Allow}, {"ignored_users", false, Ignore}, {"blocked_users", false, Block},
		{"allowed_servers", true, Allow}, {"ignored_servers", true, Ignore}, {"blocked_servers", true, Block},
	} {
		patterns, _ := set[list.field].([]any)
		for _, pattern := range patterns {
			// No identifier is longer, and patterns that are would only cost.
			if text, ok := pattern.(string); ok && len(text) <= 255 {
				p.rules = append(p.rules, rule{text, list.server, list.decision})
			}
		}
	}
	return p
}

func fields(content []byte) map[string]any {
	var out map[string]any
	if json.Unmarshal(content, &out) != nil {
		return nil
	}
	return out
}

// Decide says what becomes of an invite by a sender.
func (p Permission) Decide(sender id.UserID) Decision {
	if p.blockAll {
		return Block
	}
	for _, r := range p.rules {
		name := string(sender)
		if r.server {
			name = string(sender.Server())
		}
		if glob.Match(r.pattern, name) {
			return r.decision
		}
	}
	return Allow
}
