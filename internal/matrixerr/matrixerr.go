// Package matrixerr is the one kind of error that a client or another server may see: a
// Matrix errcode and a sentence. Every other error is internal; at the edge it becomes
// M_UNKNOWN with no text of its own.
//
// It knows nothing of HTTP: internal/httpapi turns a code into a status, in one place.
//
// spec: client-server-api/index.md#standard-error-response
package matrixerr

import (
	"errors"
	"fmt"
	"time"
)

// Code is an errcode of the specification. "M_FORBIDDEN".
type Code string

// The errcodes that Parley gives.
const (
	BadAlias                   Code = "M_BAD_ALIAS"
	BadJSON                    Code = "M_BAD_JSON"
	BadState                   Code = "M_BAD_STATE"
	BadStatus                  Code = "M_BAD_STATUS"
	CannotLeaveServerNotice    Code = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"
	CannotOverwriteMedia       Code = "M_CANNOT_OVERWRITE_MEDIA"
	CaptchaInvalid             Code = "M_CAPTCHA_INVALID"
	CaptchaNeeded              Code = "M_CAPTCHA_NEEDED"
	ConnectionFailed           Code = "M_CONNECTION_FAILED"
	ConnectionTimeout          Code = "M_CONNECTION_TIMEOUT"
	Duplicate                  Code = "M_DUPLICATE_ANNOTATION"
	Exclusive                  Code = "M_EXCLUSIVE"
	Forbidden                  Code = "M_FORBIDDEN"
	GuestAccessForbidden       Code = "M_GUEST_ACCESS_FORBIDDEN"
	IncompatibleRoomVersion    Code = "M_INCOMPATIBLE_ROOM_VERSION"
	InvalidParam               Code = "M_INVALID_PARAM"
	InvalidRoomState           Code = "M_INVALID_ROOM_STATE"
	InvalidSignature           Code = "M_INVALID_SIGNATURE"
	InvalidUsername            Code = "M_INVALID_USERNAME"
	InviteBlocked              Code = "M_INVITE_BLOCKED"
	KeyTooLarge                Code = "M_KEY_TOO_LARGE"
	LimitExceeded              Code = "M_LIMIT_EXCEEDED"
	MissingParam               Code = "M_MISSING_PARAM"
	MissingToken               Code = "M_MISSING_TOKEN"
	NotFound                   Code = "M_NOT_FOUND"
	NotJSON                    Code = "M_NOT_JSON"
	NotYetUploaded             Code = "M_NOT_YET_UPLOADED"
	ProfileTooLarge            Code = "M_PROFILE_TOO_LARGE"
	ResourceLimitExceeded      Code = "M_RESOURCE_LIMIT_EXCEEDED"
	RoomInUse                  Code = "M_ROOM_IN_USE"
	ServerNotTrusted           Code = "M_SERVER_NOT_TRUSTED"
	ThreepidAuthFailed         Code = "M_THREEPID_AUTH_FAILED"
	ThreepidDenied             Code = "M_THREEPID_DENIED"
	ThreepidInUse              Code = "M_THREEPID_IN_USE"
	ThreepidMediumNotSupported Code = "M_THREEPID_MEDIUM_NOT_SUPPORTED"
	ThreepidNotFound           Code = "M_THREEPID_NOT_FOUND"
	TooLarge                   Code = "M_TOO_LARGE"
	UnableToAuthoriseJoin      Code = "M_UNABLE_TO_AUTHORISE_JOIN"
	UnableToGrantJoin          Code = "M_UNABLE_TO_GRANT_JOIN"
	Unauthorized               Code = "M_UNAUTHORIZED"
	Unknown                    Code = "M_UNKNOWN"
	UnknownDevice              Code = "M_UNKNOWN_DEVICE"
	UnknownPos                 Code = "M_UNKNOWN_POS"
	UnknownToken               Code = "M_UNKNOWN_TOKEN"
	Unrecognized               Code = "M_UNRECOGNIZED"
	UnsupportedRoomVersion     Code = "M_UNSUPPORTED_ROOM_VERSION"
	URLNotSet                  Code = "M_URL_NOT_SET"
	UserDeactivated            Code = "M_USER_DEACTIVATED"
	UserInUse                  Code = "M_USER_IN_USE"
	UserLimitExceeded          Code = "M_USER_LIMIT_EXCEEDED"
	UserLocked                 Code = "M_USER_LOCKED"
	UserSuspended              Code = "M_USER_SUSPENDED"
	WeakPassword               Code = "M_WEAK_PASSWORD"
	WrongRoomKeysVersion       Code = "M_WRONG_ROOM_KEYS_VERSION"
)

// Error is an error for whoever asked: its text is shown to them.
type Error struct {
	Code    Code
	Message string
	// RetryAfter goes with LimitExceeded: how long to wait before asking again.
	RetryAfter time.Duration
	// Status overrides the HTTP status that belongs to Code, for the few answers that the
	// specification gives another; 0 means the usual one.
	Status int
	// Extra are further fields of the answer, such as "soft_logout" or "room_version".
	Extra map[string]any
}

// Error gives code and sentence.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// New makes an error with a sentence for the one who asked, as fmt.Sprintf does.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithStatus is a copy of e that is answered with the given HTTP status.
func (e *Error) WithStatus(status int) *Error {
	c := *e
	c.Status = status
	return &c
}

// With is a copy of e with one more field in its answer.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Extra = make(map[string]any, len(e.Extra)+1)
	for k, v := range e.Extra {
		c.Extra[k] = v
	}
	c.Extra[key] = value
	return &c
}

// CodeOf is the errcode of the first *Error in err's chain, and "" where there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Is says whether err carries the given errcode.
func Is(err error, code Code) bool { return CodeOf(err) == code }
