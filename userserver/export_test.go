package userserver

import (
	"context"
	"encoding/json"
)

// Expire lets what has run out by the server's clock end now.
func (s *Server) Expire() {
	s.typing.expire(s.now())
	s.presence.expire(s.now())
}

// CheckAuth parses the "auth" of a request.
func CheckAuth(text json.RawMessage) error {
	_, err := parseAuth(text)
	return err
}

// ForgetLists forgets the devices of users of other servers who share no room with ours any more.
func (s *Server) ForgetLists(ctx context.Context) error {
	_, err := s.forgetLists(ctx, "")
	return err
}
