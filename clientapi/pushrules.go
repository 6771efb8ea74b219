package clientapi

import (
	"context"
	"encoding/json"
	"net/http"

	"parley/internal/httpapi"
	"parley/internal/matrixerr"
	"parley/internal/pushrules"
)

// pushRuleRoutes are the push rules.
//
// spec: client-server-api/modules/push.md#push-rules-api
func (a *API) pushRuleRoutes() httpapi.Table {
	const all, global = v3 + "/pushrules/", v3 + "/pushrules/global/"
	const rule = global + "{kind}/{ruleId}"
	return httpapi.Table{
		{Method: http.MethodGet, Path: all, Auth: httpapi.User, Handler: httpapi.Handle(a.listPushRules)},
		{Method: http.MethodGet, Path: global, Auth: httpapi.User, Handler: httpapi.Handle(a.listGlobalPushRules)},
		{Method: http.MethodGet, Path: rule, Auth: httpapi.User, Handler: httpapi.Handle(a.getPushRule)},
		{Method: http.MethodPut, Path: rule, Auth: httpapi.User, Handler: httpapi.Handle(a.putPushRule)},
		{Method: http.MethodDelete, Path: rule, Auth: httpapi.User, Handler: httpapi.Handle(a.deletePushRule)},
		{Method: http.MethodGet, Path: rule + "/enabled", Auth: httpapi.User, Handler: httpapi.Handle(a.pushRuleEnabled)},
		{Method: http.MethodPut, Path: rule + "/enabled", Auth: httpapi.User, Handler: httpapi.Handle(a.setPushRuleEnabled)},
		{Method: http.MethodGet, Path: rule + "/actions", Auth: httpapi.User, Handler: httpapi.Handle(a.pushRuleActions)},
		{Method: http.MethodPut, Path: rule + "/actions", Auth: httpapi.User, Handler: httpapi.Handle(a.setPushRuleActions)},
	}
}

func (a *API) listPushRules(ctx context.Context, r *httpapi.Request, _ *empty) (*pushrules.Rulesets, error) {
	return a.users.PushRules(ctx, r.Caller.User)
}

func (a *API) listGlobalPushRules(ctx context.Context, r *httpapi.Request, _ *empty) (*pushrules.Ruleset, error) {
	rules, err := a.users.PushRules(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	return &rules.Global, nil
}

type pushRuleRequest struct {
	Kind   pushrules.Kind `path:"kind"`
	RuleID string         `path:"ruleId"`
}

func (a *API) getPushRule(ctx context.Context, r *httpapi.Request, in *pushRuleRequest) (*pushrules.Rule, error) {
	rules, err := a.users.PushRules(ctx, r.Caller.User)
	if err != nil {
		return nil, err
	}
	return rules.Global.Get(in.Kind, in.RuleID)
}

type putPushRuleRequest struct {
	Kind   pushrules.Kind  `path:"kind"`
	RuleID string          `path:"ruleId"`
	Before string          `query:"before"`
	After  string          `query:"after"`
	Draft  pushrules.Draft `body:"json"`
}

func (a *API) putPushRule(ctx context.Context, r *httpapi.Request, in *putPushRuleRequest) (*empty, error) {
	return a.changePushRules(ctx, r, func(c *pushrules.Changes) error {
		return c.Put(in.Kind, in.RuleID, in.Draft, in.Before, in.After)
	})
}

func (a *API) deletePushRule(ctx context.Context, r *httpapi.Request, in *pushRuleRequest) (*empty, error) {
	return a.changePushRules(ctx, r, func(c *pushrules.Changes) error { return c.Delete(in.Kind, in.RuleID) })
}

func (a *API) changePushRules(ctx context.Context, r *httpapi.Request, change func(*pushrules.Changes) error) (*empty, error) {
	return nil, a.users.ChangePushRules(ctx, r.Caller.User, change)
}

func (a *API) pushRuleEnabled(ctx context.Context, r *httpapi.Request, in *pushRuleRequest) (*enabled, error) {
	rule, err := a.getPushRule(ctx, r, in)
	if err != nil {
		return nil, err
	}
	return &enabled{rule.Enabled}, nil
}

type pushRuleEnabledRequest struct {
	Kind    pushrules.Kind `path:"kind"`
	RuleID  string         `path:"ruleId"`
	Enabled *bool          `json:"enabled"`
}

func (a *API) setPushRuleEnabled(ctx context.Context, r *httpapi.Request, in *pushRuleEnabledRequest) (*empty, error) {
	if in.Enabled == nil {
		return nil, matrixerr.New(matrixerr.MissingParam, "enabled is missing")
	}
	return a.changePushRules(ctx, r, func(c *pushrules.Changes) error { return c.SetEnabled(in.Kind, in.RuleID, *in.Enabled) })
}

type pushRuleActionsResponse struct {
	Actions []json.RawMessage `json:"actions"`
}

func (a *API) pushRuleActions(ctx context.Context, r *httpapi.Request, in *pushRuleRequest) (*pushRuleActionsResponse, error) {
	rule, err := a.getPushRule(ctx, r, in)
	if err != nil {
		return nil, err
	}
	return &pushRuleActionsResponse{rule.Actions}, nil
}

type pushRuleActionsRequest struct {
	Kind    pushrules.Kind    `path:"kind"`
	RuleID  string            `path:"ruleId"`
	Actions []json.RawMessage `json:"actions"`
}

func (a *API) setPushRuleActions(ctx context.Context, r *httpapi.Request, in *pushRuleActionsRequest) (*empty, error) {
	return a.changePushRules(ctx, r, func(c *pushrules.Changes) error { return c.SetActions(in.Kind, in.RuleID, in.Actions) })
}
