package syncapi

import (
	"encoding/json"
	"fmt"

	"parley/internal/pushrules"
	"parley/storage"
)

// pushRulesType is the account data that keeps what a user has changed of the push rules.
const pushRulesType = "m.push_rules"

// showPushRules puts the rules that a user has in the place of what is stored of them, which
// is what the user has changed; and, for a client that knows nothing yet, there where nothing is.
//
// spec: client-server-api/modules/push.md#server-behaviour
func (b *builder) showPushRules(data []storage.AccountData) ([]storage.AccountData, error) {
	at := -1
	for i := range data {
		if data[i].Room == "" && data[i].Type == pushRulesType {
			at = i
		}
	}
	if at < 0 {
		if !b.req.initial {
			return data, nil
		}
		at = len(data)
		data = append(data, storage.AccountData{Type: pushRulesType})
	}
	changes, err := pushrules.Parse(data[at].Content)
	if err != nil {
		return nil, fmt.Errorf("push rules of %s: %w", b.req.user, err)
	}
	data[at].Content, err = json.Marshal(changes.Rulesets(b.req.user))
	return data, err
}
