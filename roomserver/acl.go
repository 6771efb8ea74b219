package roomserver

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/tidwall/gjson"

	"parley/internal/glob"
	"parley/internal/id"
	"parley/storage"
)

// acl is a room's server access control list.
//
// spec: client-server-api/modules/server_acls.md#server-access-control-lists-acls-for-rooms
type acl struct {
	allow, deny []string // in lower case
	literals    bool
}

func parseACL(content []byte) *acl {
	list := func(name string) (out []string) {
		all := gjson.GetBytes(content, name)
		for _, v := range all.Array() {
			if all.IsArray() && v.Type == gjson.String {
				out = append(out, strings.ToLower(v.Str))
			}
		}
		return out
	}
	return &acl{list("allow"), list("deny"), gjson.GetBytes(content, "allow_ip_literals").Type != gjson.False}
}

// allows says whether a server may take part; its port is not looked at, nor the case of letters.
func (a *acl) allows(server id.ServerName) bool {
	name := strings.ToLower(string(server))
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if _, err := netip.ParseAddr(name); err == nil && !a.literals {
		return false
	}
	matches := func(pattern string) bool {
		return glob.Match(pattern, name) || glob.Match(pattern, "["+name+"]") && strings.Contains(name, ":")
	}
	return !slices.ContainsFunc(a.deny, matches) && slices.ContainsFunc(a.allow, matches)
}

// aclCacheSize bounds the rooms whose lists are kept in a form to match against.
const aclCacheSize = 1024

func newACLCache() (*lru.Cache[storage.EventNID, *acl], error) {
	return lru.New[storage.EventNID, *acl](aclCacheSize)
}

// ServerAllowed says whether a room's access control list lets a server take part. Whether
// the server does take part is another question.
//
// spec: server-server-api.md#server-access-control-lists-acls
func (s *Server) ServerAllowed(ctx context.Context, room id.RoomID, server id.ServerName) (bool, error) {
	return storage.Get(ctx, s.db, func(tx *storage.Tx) (bool, error) {
		r, err := tx.GetRoom(room)
		if missing, err := notFound(err); err != nil || missing {
			return true, err
		}
		return s.serverAllowed(tx, &r, server)
	})
}

func (s *Server) serverAllowed(tx *storage.Tx, room *storage.Room, server id.ServerName) (bool, error) {
	if room.Root == 0 || server == s.name {
		return true, nil
	}
	e, err := s.stateEvent(tx, room, room.Root, "m.room.server_acl", "")
	if err != nil || e == nil {
		return true, err
	}
	list, ok := s.acls.Get(e.NID)
	if !ok || e.RedactedBy != 0 {
		list = parseACL(e.Content())
		s.acls.Add(e.NID, list)
	}
	return list.allows(server), nil
}
