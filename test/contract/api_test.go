package contract

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"parley/test/harness"
)

//go:embed testdata/client-server.json
var definitions []byte

// definition is what the specification says of the client-server API.
type definition struct {
	operations map[string]*operation
	// anyError is the shape of the errors that an endpoint may answer without naming them, and interaction of the first
	// answer of user-interactive authentication.
	//
	// spec: client-server-api/index.md#standard-error-response
	// spec: client-server-api/index.md#user-interactive-api-in-the-rest-api
	anyError, interaction *openapi3.Schema
}

// operation is one endpoint.
type operation struct {
	id, method, path string
	route            routers.Route
}

// The definitions of those in the document.
const (
	errorSchema       = "api-client-server-definitions-errors-error"
	interactionSchema = "api-client-server-definitions-auth_response"
)

func loadDefinition() (*definition, error) {
	doc, err := openapi3.NewLoader().LoadFromData(definitions)
	if err != nil {
		return nil, err
	}
	d := &definition{operations: make(map[string]*operation)}
	for name, to := range map[string]**openapi3.Schema{errorSchema: &d.anyError, interactionSchema: &d.interaction} {
		ref := doc.Components.Schemas[name]
		if ref == nil {
			return nil, fmt.Errorf("there is no %s", name)
		}
		*to = ref.Value
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			// Of two endpoints with one path, the second has a space behind it.
			d.operations[op.OperationID] = &operation{id: op.OperationID, method: method, path: strings.TrimSpace(path),
				route: routers.Route{Spec: doc, PathItem: item, Method: method, Operation: op}}
		}
	}
	return d, d.amend()
}

// amend mends what the definitions say too narrowly.
func (d *definition) amend() error {
	answer := func(id string) *openapi3.Schema {
		return d.operations[id].route.Operation.Responses.Status(http.StatusOK).Value.Content["application/json"].Schema.Value
	}
	// An event is an object as well, so an answer with one is of both forms.
	state := answer("getRoomStateWithKey")
	state.AnyOf, state.OneOf = state.OneOf, nil
	// Who has no name has null, which is more than no field: clients and the tests of others look for the fields.
	member := answer("getJoinedMembersByRoom").Properties["joined"].Value.PatternProperties["^@"].Value
	for _, field := range member.Properties {
		field.Value.Type = &openapi3.Types{openapi3.TypeString, openapi3.TypeNull}
	}
	// Presence, typing and receipts come with the events, as they always have: they have no IDs.
	for _, id := range []string{"getEvents", "peekEvents"} {
		chunk := answer(id).Properties["chunk"].Value
		other := openapi3.NewObjectSchema().WithRequired([]string{"type", "content"})
		other.Not = openapi3.NewSchemaRef("", openapi3.NewObjectSchema().WithRequired([]string{"event_id"}))
		chunk.Items = openapi3.NewSchemaRef("", openapi3.NewAnyOfSchema())
		chunk.Items.Value.AnyOf = openapi3.SchemaRefs{d.operations["getOneEvent"].route.Operation.Responses.Status(http.StatusOK).Value.Content["application/json"].Schema, openapi3.NewSchemaRef("", other)}
	}
	return nil
}

// fill puts values into the path's parameters, in their order.
func (o *operation) fill(values []string) (string, error) {
	segments := strings.Split(o.path, "/")
	for i, s := range segments {
		if strings.HasPrefix(s, "{") {
			if len(values) == 0 {
				return "", fmt.Errorf("%s: no value for %s", o.id, s)
			}
			segments[i], values = escape(values[0]), values[1:]
		}
	}
	if len(values) > 0 {
		return "", fmt.Errorf("%s: %q are too many values", o.id, values)
	}
	return strings.Join(segments, "/"), nil
}

// errors are the statuses of errors that the specification names for the endpoint, but for those of rate limits and
// of what other servers don't do.
func (o *operation) errors() []string {
	var all []string
	for status := range o.route.Operation.Responses.Map() {
		if status[0] == '4' && status != "429" {
			all = append(all, status)
		}
	}
	slices.Sort(all)
	return all
}

// asksWho says whether the endpoint wants an access token.
func (o *operation) asksWho() bool {
	security := o.route.Operation.Security
	if security == nil {
		return false
	}
	// One of the ways may be none, and one of an endpoint's is that of servers.
	for _, way := range *security {
		_, user := way["accessTokenBearer"]
		_, service := way["appserviceAccessTokenBearer"]
		if !user && !service {
			return false
		}
	}
	return len(*security) > 0
}

// always are the errors that come before those of an endpoint, whose 401 may be of another form.
//
// spec: client-server-api/index.md#common-error-codes
var always = []string{"M_MISSING_TOKEN", "M_UNKNOWN_TOKEN", "M_USER_LOCKED"}

// check says what of an answer is not as the specification has it.
func (d *definition) check(ctx context.Context, o *operation, req *http.Request, resp harness.Response) error {
	declared := o.route.Operation.Responses.Status(resp.Status)
	switch {
	case declared == nil && resp.Status < 400:
		return fmt.Errorf("an answer with status %d, which is not specified", resp.Status)
	case resp.Status == http.StatusUnauthorized && resp.Get("flows").Exists():
		return visit(d.interaction, resp)
	case declared == nil || slices.Contains(always, resp.Get("errcode").Str):
		return d.checkError(resp)
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, Route: &o.route},
		Status:                 resp.Status,
		Header:                 resp.Header,
		Body:                   io.NopCloser(bytes.NewReader(resp.Body)),
		// A file has the type that it was uploaded with, and no schema.
		Options: &openapi3filter.Options{MultiError: true, IncludeResponseStatus: true,
			ExcludeResponseBody: len(declared.Value.Content) > 0 && declared.Value.Content["application/json"] == nil},
	}
	if err := openapi3filter.ValidateResponse(ctx, input); err != nil || resp.Status < 400 {
		return err
	}
	return d.checkError(resp)
}

// checkError holds an error against the form that all have.
func (d *definition) checkError(resp harness.Response) error {
	if kind := resp.Header.Get("Content-Type"); kind != "application/json" {
		return fmt.Errorf("an error of type %q", kind)
	}
	if err := visit(d.anyError, resp); err != nil {
		return err
	}
	if !strings.HasPrefix(resp.Get("errcode").Str, "M_") || resp.Get("error").Str == "" {
		return fmt.Errorf("an error without a code or a sentence: %s", resp.Body)
	}
	return nil
}

// visit holds an answer against a schema.
func visit(schema *openapi3.Schema, resp harness.Response) error {
	var body any
	if err := json.Unmarshal(resp.Body, &body); err != nil {
		return fmt.Errorf("an answer that is not JSON: %w", err)
	}
	return schema.VisitJSON(body, openapi3.EnableJSONSchema2020())
}
