package mail_test

import (
	"io"
	"mime/quotedprintable"
	"strings"
	"testing"

	"parley/internal/mail"
	"parley/internal/mail/mailtest"
)

func TestNotify(t *testing.T) {
	office := mailtest.Open(t)
	mailer, err := mail.New(mail.Options{Host: "127.0.0.1", Port: office.Port, Encryption: mail.None,
		From: "x.org <noreply@x.org>", ServerName: "x.org"})
	if err != nil {
		t.Fatal(err)
	}
	news := &mail.News{User: "@bob:x.org", More: 3, Rooms: []mail.RoomNews{
		{Name: "Tea <b>", Messages: []mail.Message{{Sender: "Älice", Text: "hello\r\nBcc: eve@x.org"}, {Sender: "Carol", Text: "<script>"}}},
		{Name: "Work", Messages: []mail.Message{{Sender: "Dave", Text: "now"}}},
	}}
	if err := mailer.Notify(t.Context(), "bob@y.org", news); err != nil {
		t.Fatal(err)
	}
	mails := office.Take("bob@y.org")
	if len(mails) != 1 {
		t.Fatalf("%d mails to bob", len(mails))
	}
	text := mails[0]
	head, _, _ := strings.Cut(text, "\r\n\r\n")
	if strings.Contains(head, "Bcc") {
		t.Errorf("the head of the mail is\n%s", head)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Hello @bob:x.org", "Tea <b>", "Tea &lt;b&gt;", "Älice: hello", "&lt;script&gt;", "Work", "And 3 more."} {
		if !strings.Contains(string(body), want) {
			t.Errorf("the mail does not have %q", want)
		}
	}
}
