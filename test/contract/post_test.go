package contract

import (
	"fmt"
	"html"
	"io"
	"mime/quotedprintable"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"parley/internal/mail/mailtest"
	"parley/test/harness"
)

// mailSettings have a node send its mail to an office.
func mailSettings(o *mailtest.Office) string {
	return fmt.Sprintf("email:\n  host: 127.0.0.1\n  port: %d\n  encryption: none\n  from: noreply@example.org\n", o.Port)
}

var mailedLink = regexp.MustCompile(`https://matrix\.example\.org/[^\s"<]+`)

// confirm follows the link of the last mail to an address, as its owner does.
func (s *scene) confirm(address string) {
	s.t.Helper()
	mails := s.post.Take(address)
	if len(mails) == 0 {
		s.t.Fatalf("no mail to %s", address)
	}
	text, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(mails[len(mails)-1])))
	if err != nil {
		s.t.Fatal(err)
	}
	link, err := url.Parse(html.UnescapeString(mailedLink.FindString(string(text))))
	if err != nil || link.Path == "" {
		s.t.Fatalf("no link in the mail to %s: %s", address, text)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.server.URL+link.RequestURI(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp := harness.Send(req); resp.Status != http.StatusOK {
		s.t.Fatalf("the link of a mail: %d %s", resp.Status, resp.Body)
	}
}
