package userserver

import "encoding/json"

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
