package userserver

import (
	"context"
	"encoding/json"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/internal/pushrules"
)

// PushRules are all push rules that a user has. What is kept, as account data, is what the user
// has changed of the server's own.
//
// spec: client-server-api/modules/push.md#push-rules
func (s *Server) PushRules(ctx context.Context, user id.UserID) (*pushrules.Rulesets, error) {
	stored, err := s.storedAccountData(ctx, user, "", PushRulesType)
	if err != nil && !matrixerr.Is(err, matrixerr.NotFound) {
		return nil, err
	}
	changes, err := pushrules.Parse(stored)
	if err != nil {
		return nil, err
	}
	rules := changes.Rulesets(user)
	return &rules, nil
}

// ChangePushRules has change change a user's push rules.
func (s *Server) ChangePushRules(ctx context.Context, user id.UserID, change func(*pushrules.Changes) error) error {
	return s.UpdateAccountData(ctx, user, "", PushRulesType, func(old []byte) ([]byte, error) {
		return pushrules.Edit(old, change)
	})
}

// pushRulesContent is the content of m.push_rules as clients see it.
func (s *Server) pushRulesContent(ctx context.Context, user id.UserID) (json.RawMessage, error) {
	rules, err := s.PushRules(ctx, user)
	if err != nil {
		return nil, err
	}
	return json.Marshal(rules)
}
