// Package httpapi is the edge between HTTP and our own code: a table of routes, and one
// adapter that turns a request into a typed call and what comes back into an answer.
//
// A face (clientapi, federation) is a [Table]. A row says which request it is about, who may
// call it, how often, and the handler:
//
//	var table = httpapi.Table{{
//		Method:  http.MethodPut,
//		Path:    "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}",
//		Auth:    httpapi.UserOrGuest,
//		Rate:    httpapi.RateSend,
//		Handler: httpapi.Handle(api.send),
//	}}
//
//	type sendRequest struct {
//		RoomID  id.RoomID       `path:"roomId"`
//		Type    string          `path:"eventType"`
//		TxnID   string          `path:"txnId"`
//		TS      *int64          `query:"ts"`
//		Content json.RawMessage `body:"raw"`
//	}
//
//	func (a *api) send(ctx context.Context, r *httpapi.Request, in *sendRequest) (*sendResponse, error)
//
// [New] makes an http.Handler of tables. What happens to a request, in order: a request id;
// CORS headers, and the end of it for OPTIONS; the route; who asks; whether they may; whether they
// ask too often; path, query and body decoded into the handler's struct; the handler; its answer
// encoded. Whatever goes wrong on the way is an error, and one function turns errors into
// answers. A panic in a handler is logged and answered; it ends nothing but its request.
//
// # What a handler's request struct may have
//
//   - `path:"roomId"`: a parameter of the path, unescaped.
//   - `query:"dir"`: a parameter of the query; the first, or all of them in a slice; a pointer
//     stays nil when it is absent. `query:"dir,required"` is refused without it.
//   - `json:"reason"`: a field of the body, as encoding/json does it.
//   - `body:"raw"`: the whole body as json.RawMessage, which is a valid JSON object.
//   - `body:"json"`: the whole body, decoded into a field of any type.
//   - embedded structs of these.
//
// Parameters of path and query are strings of any named type, booleans, integers, or what
// implements encoding.TextUnmarshaler. Those of the types of package id are checked to be
// well-formed, so a handler that was called holds a possible room ID; one that wants what a
// client sent as it is takes a string. They are valid UTF-8 and have no NUL. How a struct is to
// be decoded is worked out once, by New, which refuses tags it does not understand.
//
// It knows nothing of rooms and accounts: whose a token is and whether a server's signature
// is good, it asks the functions in [Options].
//
// spec: client-server-api/index.md#api-standards
package httpapi
