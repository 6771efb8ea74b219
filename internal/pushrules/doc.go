// Package pushrules decides whether an event is to notify a user, and how.
//
// It is pure: rules and an event go in, actions come out. It doesn't store rules, doesn't know who is
// in a room, and sends nothing.
//
// What a user has changed is kept, not the rules that result: [Changes]. The server's own
// rules are added when they are asked for, so that an account from long ago has today's.
//
//	changes, err := pushrules.Parse(stored)         // nil is a user who has changed nothing
//	evaluator := pushrules.Compile(changes)         // once for each user; Compile(nil) for all who have changed nothing
//	event := pushrules.NewEvent(json, context)      // once for each event
//	actions := evaluator.Evaluate(event, member)    // for each of the room's members
//
// spec: client-server-api/modules/push.md#push-rules
package pushrules
