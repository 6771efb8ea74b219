package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"parley/internal/matrixerr"
)

// statusClientGone is what metrics and the access log say of a request whose client did not
// wait for the answer. Nobody receives it.
const statusClientGone = 499

// statuses are the codes whose status isn't 400.
//
// spec: client-server-api/index.md#common-error-codes
// spec: client-server-api/index.md#other-error-codes
var statuses = map[matrixerr.Code]int{
	matrixerr.BadStatus:               http.StatusBadGateway,
	matrixerr.CannotLeaveServerNotice: http.StatusForbidden,
	matrixerr.CannotOverwriteMedia:    http.StatusConflict,
	matrixerr.ConnectionFailed:        http.StatusBadGateway,
	matrixerr.ConnectionTimeout:       http.StatusGatewayTimeout,
	matrixerr.Forbidden:               http.StatusForbidden,
	matrixerr.GuestAccessForbidden:    http.StatusForbidden,
	matrixerr.InviteBlocked:           http.StatusForbidden,
	matrixerr.LimitExceeded:           http.StatusTooManyRequests,
	matrixerr.MissingToken:            http.StatusUnauthorized,
	matrixerr.NotFound:                http.StatusNotFound,
	matrixerr.NotYetUploaded:          http.StatusGatewayTimeout,
	matrixerr.ResourceLimitExceeded:   http.StatusForbidden,
	matrixerr.ThreepidAuthFailed:      http.StatusForbidden,
	matrixerr.ThreepidDenied:          http.StatusForbidden,
	matrixerr.TooLarge:                http.StatusRequestEntityTooLarge,
	matrixerr.Unauthorized:            http.StatusUnauthorized,
	matrixerr.UnknownToken:            http.StatusUnauthorized,
	matrixerr.Unrecognized:            http.StatusNotFound,
	matrixerr.UserDeactivated:         http.StatusForbidden,
	matrixerr.UserLimitExceeded:       http.StatusForbidden,
	matrixerr.UserLocked:              http.StatusUnauthorized,
	matrixerr.UserSuspended:           http.StatusForbidden,
	matrixerr.WrongRoomKeysVersion:    http.StatusForbidden,
}

func statusOf(e *matrixerr.Error) int {
	if e.Status != 0 {
		return e.Status
	}
	if s, ok := statuses[e.Code]; ok {
		return s
	}
	return http.StatusBadRequest
}

// writeError answers with an error. One without a code has only its extra fields, as the
// first answer of user-interactive authentication does.
//
// spec: client-server-api/index.md#standard-error-response
func writeError(w http.ResponseWriter, e *matrixerr.Error) error {
	fields := make(map[string]any, len(e.Extra)+3)
	for k, v := range e.Extra {
		fields[k] = v
	}
	if e.Code != "" {
		fields["errcode"], fields["error"] = e.Code, e.Message
	}
	status := statusOf(e)
	// spec: client-server-api/index.md#rate-limiting
	if status == http.StatusTooManyRequests && e.RetryAfter > 0 {
		fields["retry_after_ms"] = roundUp(e.RetryAfter, time.Millisecond)
		w.Header().Set("Retry-After", strconv.FormatInt(roundUp(e.RetryAfter, time.Second), 10))
	}
	return writeJSON(w, status, fields)
}

func roundUp(d, unit time.Duration) int64 { return int64((d + unit - 1) / unit) }
