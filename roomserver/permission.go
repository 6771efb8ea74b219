package roomserver

import (
	"parley/internal/id"
	"parley/internal/invites"
	"parley/internal/matrixerr"
	"parley/storage"
)

// mayInvite refuses an invite of one of our users who wants none of the sender's. That the user wants not to see it is
// no reason to.
//
// spec: client-server-api/modules/invite_permission.md#server-behaviour
func (s *Server) mayInvite(tx *storage.Tx, sender, target id.UserID) error {
	if !s.local(target) {
		return nil // their server says so
	}
	p, err := InvitePermission(tx, target)
	if err == nil && p.Decide(sender) == invites.Block {
		err = matrixerr.New(matrixerr.InviteBlocked, "The user does not want to be invited.")
	}
	return err
}

// InvitePermission is whose invites a user wants.
func InvitePermission(tx *storage.Tx, user id.UserID) (invites.Permission, error) {
	var contents [2][]byte
	for i, typ := range []string{invites.PermissionType, invites.FilterType} {
		data, err := tx.GetAccountData(user, "", typ)
		if _, err := notFound(err); err != nil {
			return invites.Permission{}, err
		}
		contents[i] = data.Content
	}
	return invites.Parse(contents[0], contents[1]), nil
}
