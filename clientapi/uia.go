package clientapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"parley/internal/httpapi"
	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/userserver"
)

// interact takes a request one stage of user-interactive authentication further. Its error is
// what to answer while that is not complete. operation says what is asked for.
//
// spec: client-server-api/index.md#user-interactive-api-in-the-rest-api
func (a *API) interact(ctx context.Context, in userserver.Interaction, operation ...string) (userserver.Authenticated, error) {
	in.Operation = strings.Join(operation, "\n")
	done, err := a.users.Interact(ctx, in)
	var c *userserver.Challenge
	if errors.As(err, &c) {
		return nil, challenge(c)
	}
	return done, err
}

func challenge(c *userserver.Challenge) *matrixerr.Error {
	type flow struct {
		Stages []string `json:"stages"`
	}
	flows := make([]flow, len(c.Flows))
	for i, stages := range c.Flows {
		flows[i].Stages = stages
	}
	params := c.Params
	if params == nil {
		params = map[string]any{}
	}
	e := &matrixerr.Error{Status: http.StatusUnauthorized, Extra: map[string]any{
		"flows": flows, "params": params, "session": c.Session,
	}}
	if len(c.Completed) > 0 {
		e.Extra["completed"] = c.Completed
	}
	if c.Failed != nil {
		e.Code, e.Message = c.Failed.Code, c.Failed.Message
	}
	return e
}

// passwordFlow is the way for those who have an account to show that it is they who ask.
var passwordFlow = [][]string{{userserver.StagePassword}}

// confirm has the caller, or whoever asks where nobody is logged in, give their password, and
// says whose it was.
func (a *API) confirm(ctx context.Context, r *httpapi.Request, auth json.RawMessage, operation ...string) (id.UserID, error) {
	return a.confirmBy(ctx, r, userserver.Interaction{Flows: passwordFlow, Auth: auth}, operation...)
}

// confirmBy is confirm for more ways than the password.
func (a *API) confirmBy(ctx context.Context, r *httpapi.Request, in userserver.Interaction, operation ...string) (id.UserID, error) {
	if r.Caller != nil {
		in.User = r.Caller.User
	}
	done, err := a.interact(ctx, in, append([]string{string(in.User)}, operation...)...)
	if err != nil {
		return "", err
	}
	return done.User(), nil
}
