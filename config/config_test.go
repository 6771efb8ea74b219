package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"parley/internal/id"
)

// write makes a file and gives its path.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "db.url", "postgres://parley:s3cret@localhost/parley\n")
	c, err := Load(write(t, dir, "parley.yaml", `
server_name: example.org
data_dir: /var/lib/parley
presence: off
listeners:
  trusted_proxies: [10.0.0.1, "fd00::/8"]
  client: {address: ":8008"}
database:
  url_file: db.url
  durability: relaxed
registration:
  allow: token
  token: >-
    open-sesame
rate_limits:
  login: {burst: 10}
  sending:
limits:
  upload_size: 1 GiB
federation:
  signing_keys: [old.key, /etc/parley/new.key]
  old_signing_keys:
  - id: ed25519:a_Jxyz
    public_key: 5jHEqZ7bDYJ2EUVPG9Rl9nlxPNB7qkXdWRaOvVfIyq0
    expired: 2026-01-31T00:00:00Z
  notaries: []
turn: {lifetime: 30s}
logging:
  packages: {roomserver: debug}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.ServerName = "example.org"
	want.DataDir = "/var/lib/parley"
	want.Presence = PresenceOff
	want.Listeners.TrustedProxies = prefixes("10.0.0.1/32", "fd00::/8")
	want.Listeners.Client.Address = ":8008"
	want.Database.URL = "postgres://parley:s3cret@localhost/parley"
	want.Database.URLFile = Path(filepath.Join(dir, "db.url"))
	want.Database.Durability = Relaxed
	want.Registration.Allow = Token
	want.Registration.Token = "open-sesame"
	want.RateLimits.Login.Burst = 10
	want.Limits.UploadSize = GiB
	want.Federation.SigningKeys = []Path{Path(filepath.Join(dir, "old.key")), "/etc/parley/new.key"}
	want.Federation.OldSigningKeys = []OldKey{{
		ID:        "ed25519:a_Jxyz",
		PublicKey: "5jHEqZ7bDYJ2EUVPG9Rl9nlxPNB7qkXdWRaOvVfIyq0",
		Expired:   time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC),
	}}
	want.Federation.Notaries = nil
	want.TURN.Lifetime = 30 * time.Second
	want.Logging.Packages = map[string]Level{"roomserver": LevelDebug}
	c.Federation.Notaries = c.Federation.Notaries[:0:0]
	want.Federation.Notaries = c.Federation.Notaries
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %#v\nwant %#v", c, want)
	}
	if got := c.SQLiteFile(); got != "/var/lib/parley/parley.db" {
		t.Errorf("SQLiteFile() = %s", got)
	}
	if got := c.SigningKeyFile(); got != "/var/lib/parley/signing.key" {
		t.Errorf("SigningKeyFile() = %s", got)
	}
}

// Each case is a file and all that Load says of it.
func TestLoadProblems(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"empty", "", "server_name: is required: the name of this server, such as example.org"},
		{"only comments", "# server_name: x\n", "server_name: is required: the name of this server, such as example.org"},
		{"not text", "server_name: \xff", "is not a text file in UTF-8"},
		{"NUL", "server_name: a\x00b", "is not a text file in UTF-8"},
		{"a list", "- server_name: a\n", `
1:1: must be a section with settings of its own (key: value), not a list
server_name: is required: the name of this server, such as example.org`},
		{"a tab", "server_name: a.org\ndatabase:\n\turl: x\n", "3:1: not valid YAML: found character '\t' that cannot start any token"},
		{"unclosed", "server_name: a.org\nlogging: {level: info\n", "2:10: not valid YAML: could not find flow mapping end token '}'"},
		{"two documents", "server_name: a.org\n---\nserver_name: b.org\n", "3:1: begins a second document; a configuration is one"},
		{"unknown", "server_name: a.org\nserver: b\nmetrics:\n  adress: x\n", `
2:1: server: there is no such setting; the settings and sections are server_name, data_dir, presence, listeners, acme, database, registration, rate_limits, well_known, limits, rooms, retention, appservices, federation, outgoing, email, media, turn, logging, metrics
4:3: metrics.adress: there is no such setting; the settings here are address`},
		{"twice", "server_name: a.org\nserver_name: b.org\n", "2:1: server_name: is set twice; the first time in line 1"},
		{"types", `
server_name: 5
data_dir: {a: b}
presence: true
listeners: here
database:
  readers: many
  durability: 5
  url: [a]
rate_limits:
  enabled: yes
  login: {per_second: fast, burst: 1.5}
federation:
  allow_servers: example.org
  old_signing_keys: [{expired: today}]
outgoing:
  deny_networks: [10.0.0.1/8, private, {}]
limits:
  event_size: 65536
  body_size:
turn:
  lifetime: 30
`, `
2:14: server_name: must be text, not a number; in quotes it is text: "5"
3:11: data_dir: must be text, not a section
4:11: presence: must be text, not true or false
5:12: listeners: must be a section with settings of its own (key: value), not text
7:12: database.readers: must be a whole number, not text
8:15: database.durability: must be "full" or "relaxed", not "5"
9:8: database.url: must be text, not a list
11:12: rate_limits.enabled: must be true or false, not text
12:23: rate_limits.login.per_second: must be a number, not text
12:36: rate_limits.login.burst: must be a whole number, not the number 1.5
14:18: federation.allow_servers: must be a list, such as [a, b], or [] for none, not text
15:32: federation.old_signing_keys[0].expired: must be a time such as 2026-01-31T00:00:00Z
15:22: federation.old_signing_keys[0].id: must be the name of an ed25519 key, such as ed25519:a_Jxyz
15:22: federation.old_signing_keys[0].public_key: must be 32 bytes in unpadded base64, 43 characters
17:19: outgoing.deny_networks[0]: has bits set after its first 8; the network is 10.0.0.0/8
17:31: outgoing.deny_networks[1]: must be an address or a network, such as 10.0.0.0/8
17:40: outgoing.deny_networks[2]: must be one value, not a section
19:15: limits.event_size: must be a size with a unit, such as "50 MiB"
20:13: limits.body_size: must be one value, not nothing
22:13: turn.lifetime: must be a time with a unit, such as "30s", "5m" or "24h"`},
		{"anchors", "server_name: &a example.org\ndata_dir: *a\n", `
1:14: server_name: must be text, not an anchor, alias or tag, which have no use here
2:11: data_dir: must be text, not an anchor, alias or tag, which have no use here`},
		{"contradictions", `
server_name: a.org
listeners:
  client:
    address: 127.0.0.1:8008
    tls_key: key.pem
  federation:
    address: 127.0.0.1:8008
metrics:
  address: nonsense
database:
  url: mysql://root:hunter2@localhost
  readers: -1
registration:
  token: what?
federation:
  enabled: false
  allow_servers: [b.org]
  deny_servers: [b.org, "https://c.org"]
  notaries: [a.org]
limits:
  event_size: 1 MiB
  body_size: 1 MiB
turn:
  uris: ["http://turn"]
rooms:
  default_version: "13"
rate_limits:
  sending: {per_second: 0, burst: 0}
well_known:
  client_base_url: matrix.example.org
  server: a_b
  support_contacts: [{role: m.role.admin}, {email_address: x, matrix_id: y}]
logging:
  packages: {"a b": info}
`, `
6:5: listeners.client.tls_key: needs tls_certificate too
8:5: listeners.federation.address: 127.0.0.1:8008 is the address of listeners.client.address already
8:5: listeners.federation.address: contradicts federation.enabled: false
10:3: metrics.address: "nonsense" is not an address with a port, such as 127.0.0.1:8008 or [::1]:8008
12:3: database.url: must be a URL such as postgres://user:password@host/database
13:3: database.readers: must not be negative
15:3: registration.token: is of no use where registration.allow is "nobody"; set that to "token"
15:3: registration.token: must have at most 64 characters, of A-Z a-z 0-9 . _ ~ -
19:18: federation.deny_servers[0]: b.org is in allow_servers too
19:25: federation.deny_servers[1]: "https://c.org" is not a server name, nor one with * and ? as wildcards
20:14: federation.notaries[0]: a.org is this server itself
22:3: limits.event_size: must be between 4 KiB and 64 KiB, not 1 MiB
25:3: turn.uris: need the relay's secret, in turn.shared_secret or turn.shared_secret_file
25:10: turn.uris[0]: "http://turn" is not a URI that starts with turn: or turns:
27:3: rooms.default_version: there is no room version "13"; the versions are 1 to 12
29:13: rate_limits.sending.per_second: must be more than 0; rate_limits.enabled: false switches all limits off
29:28: rate_limits.sending.burst: must be at least 1
31:3: well_known.client_base_url: "matrix.example.org" is not a URL that starts with https://
32:3: well_known.server: "a_b" cannot be a server name: server name has characters that are not allowed
32:3: well_known.server: contradicts federation.enabled: false
33:22: well_known.support_contacts[0]: needs a matrix_id or an email_address
33:44: well_known.support_contacts[1].role: must be given: m.role.admin or m.role.security
33:63: well_known.support_contacts[1].matrix_id: user ID does not start with "@"
33:45: well_known.support_contacts[1].email_address: is not an email address
35:3: logging.packages: must name packages, such as roomserver, not "a b"`},
		{"secrets", `
server_name: a.org
database: {url_file: nowhere}
registration:
  allow: token
  token_file: empty
  shared_secret: x
  shared_secret_file: y
turn:
  shared_secret_file: full
`, `
3:12: database.url_file: open DIR/nowhere: no such file or directory
6:3: registration.token_file: DIR/empty is empty
8:3: registration.shared_secret_file: set either this or registration.shared_secret, not both
10:3: turn.shared_secret_file: is of no use without turn.uris`},
		{"media", `
server_name: a.org
media:
  max_pixels: 0
  cache_age: -1h
  s3:
    endpoint: s3.example.org
`, `
4:3: media.max_pixels: must be at least 1
5:3: media.cache_age: must not be negative
7:5: media.s3.endpoint: "s3.example.org" is not an address such as https://s3.example.org
7:5: media.s3.endpoint: needs a bucket, in media.s3.bucket
7:5: media.s3.endpoint: needs media.s3.access_key, and media.s3.secret_key or media.s3.secret_key_file`},
		{"a bucket's secret", `
server_name: a.org
media: {s3: {secret_key: x}}
`, `
3:14: media.s3.secret_key: is of no use without media.s3.endpoint`},
		{"certificates", `
server_name: a.org
listeners:
  client: {tls_certificate: nowhere.pem, tls_key: nowhere.pem}
  federation:
    tls_certificate: full
    tls_key: full
`, `
4:12: listeners.client.tls_certificate: the certificate and its key cannot be used: open DIR/nowhere.pem: no such file or directory
6:5: listeners.federation.tls_certificate: is of no use without an address to listen on
6:5: listeners.federation.tls_certificate: the certificate and its key cannot be used: tls: failed to find any PEM data in certificate input`},
		{"acme", `
server_name: a.org
listeners:
  client: {acme: true, tls_certificate: full, tls_key: full}
  federation: {acme: true}
acme: {domains: [a.org, "a.org:443", 1.2.3.4, localhost, "a b", "[::1]"], email: me, directory: x, http_address: nonsense}
`, `
4:12: listeners.client.acme: contradicts tls_certificate
4:24: listeners.client.tls_certificate: the certificate and its key cannot be used: tls: failed to find any PEM data in certificate input
5:16: listeners.federation.acme: is of no use without an address to listen on
6:100: acme.http_address: "nonsense" is not an address with a port, such as 127.0.0.1:8008 or [::1]:8008
6:25: acme.domains[1]: "a.org:443" is not a host such as matrix.example.org
6:38: acme.domains[2]: "1.2.3.4" is not a host such as matrix.example.org
6:47: acme.domains[3]: "localhost" is not a host such as matrix.example.org
6:58: acme.domains[4]: "a b" is not a host such as matrix.example.org
6:65: acme.domains[5]: "[::1]" is not a host such as matrix.example.org
6:75: acme.email: is not an email address
6:86: acme.directory: "x" is not a URL that starts with https://`},
		{"acme for nobody", `
server_name: a.org
acme: {domains: [a.org]}
`, `
3:8: acme.domains: is of no use without a listener that has acme: true`},
		{"acme without a domain", `
server_name: a.org
listeners: {client: {acme: true}}
`, `
acme.domains: must name the hosts that listeners with acme are reached by`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "empty", "\n")
			write(t, dir, "full", "something\n")
			file := write(t, dir, "parley.yaml", c.file)
			_, err := Load(file)
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("Load: %v", err)
			}
			got := strings.ReplaceAll(strings.ReplaceAll(problems.Error(), file+":", "FILE:"), dir, "DIR")
			var want []string
			for line := range strings.SplitSeq(strings.TrimPrefix(c.want, "\n"), "\n") {
				if !regexp.MustCompile(`^\d`).MatchString(line) {
					line = " " + line
				}
				want = append(want, "FILE:"+line)
			}
			// Without a position a problem has "file: reason", and comes first.
			if g, w := sorted(got), sorted(strings.Join(want, "\n")); g != w {
				t.Errorf("got\n%s\nwant\n%s", g, w)
			}
			if strings.Contains(got, "hunter2") {
				t.Error("a problem shows a password")
			}
		})
	}
}

func sorted(text string) string {
	lines := strings.Split(text, "\n")
	var first, rest []string
	for _, l := range lines {
		if strings.HasPrefix(l, "FILE: ") {
			first = append(first, l)
		} else {
			rest = append(rest, l)
		}
	}
	return strings.Join(append(first, rest...), "\n")
}

func TestLoadMissingFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "nowhere.yaml"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that the file does not exist", err)
	}
}

func TestLoadCertificate(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	c, err := Load(write(t, dir, "parley.yaml",
		"server_name: a.org\nlisteners:\n  federation: {address: \":8448\", tls_certificate: cert.pem, tls_key: key.pem}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := Path(filepath.Join(dir, "key.pem")); c.Listeners.Federation.TLSKey != want {
		t.Errorf("tls_key is %s, want %s", c.Listeners.Federation.TLSKey, want)
	}
}

func TestSample(t *testing.T) {
	dir := t.TempDir()
	want := Default()
	want.ServerName = "matrix.test:8448"
	want.DataDir = Path(filepath.Join(dir, "data"))
	same := func(t *testing.T, text string) {
		c, err := Load(write(t, dir, "parley.yaml", text))
		if err != nil {
			t.Fatal(err)
		}
		// An empty list and none mean the same.
		if g, w := fmt.Sprintf("%+v", *c), fmt.Sprintf("%+v", *want); g != w {
			t.Errorf("got  %s\nwant %s", g, w)
		}
	}
	sample := string(Sample("matrix.test:8448"))
	for _, name := range []string{"localhost", "[::1]", "[::1]:80", "1.2", "12", "true", "a:1"} {
		c, err := Load(write(t, dir, "parley.yaml", string(Sample(id.ServerName(name)))))
		if err != nil || string(c.ServerName) != name {
			t.Errorf("the sample for %s: %v, %v", name, c, err)
		}
	}
	t.Run("as written", func(t *testing.T) { same(t, sample) })
	t.Run("every setting in force", func(t *testing.T) {
		all := regexp.MustCompile(`(?m)^( *)#((?:[a-z_]+:|  - ).*)$`).ReplaceAllString(sample, "$1$2")
		if strings.Count(all, ": ") == strings.Count(sample, "#") {
			t.Fatal("nothing was uncommented")
		}
		if rest := regexp.MustCompile(`(?m)^ *#[^ \n].*$`).FindAllString(all, -1); len(rest) > 0 {
			t.Errorf("these lines are neither comment nor setting: %q", rest)
		}
		same(t, all)
	})
}

func TestEverySettingCanBeRead(t *testing.T) {
	each(reflect.ValueOf(Default()).Elem(), "", func(path string, v reflect.Value) {
		if v.Kind() != reflect.Struct || v.Type() == reflect.TypeFor[time.Time]() || strings.Contains(path, "[") {
			return
		}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if key(f) == "" {
				t.Errorf("%s.%s has no yaml tag", v.Type(), f.Name)
			}
			if f.Type == reflect.TypeFor[Secret]() {
				file, ok := v.Type().FieldByName(f.Name + "File")
				if !ok || key(file) != key(f)+"_file" || file.Type != reflect.TypeFor[Path]() {
					t.Errorf("%s has no %s_file beside it", join(path, key(f)), key(f))
				}
			}
		}
	})
}

func TestLocal(t *testing.T) {
	c, err := Local("", "")
	if err != nil {
		t.Fatal(err)
	}
	if c.ServerName != "localhost" || c.SQLiteFile() != "data/parley.db" || c.SigningKeyFile() != "data/signing.key" ||
		c.Listeners.Client.Address != "127.0.0.1:8008" || c.Registration.Allow != Anyone || c.RateLimits.Enabled {
		t.Errorf("got %+v", c)
	}
	for _, listen := range []string{"127.0.0.1:80", "127.9.9.9:0", "[::1]:8008", "localhost:8008"} {
		c, err := Local("/tmp/x", listen)
		if err != nil {
			t.Errorf("Local(%q): %v", listen, err)
		} else if c.Listeners.Client.Address != listen || c.DataDir != "/tmp/x" {
			t.Errorf("Local(%q) listens on %s, with data in %s", listen, c.Listeners.Client.Address, c.DataDir)
		}
	}
	for _, listen := range []string{"0.0.0.0:8008", ":8008", "[::]:8008", "192.168.0.1:8008", "example.org:8008",
		"localhost.example.org:8008", "127.0.0.1", "nonsense", "127.0.0.1:99999"} {
		if _, err := Local("", listen); err == nil {
			t.Errorf("Local(%q) is accepted", listen)
		}
	}
}

func TestSecretIsHidden(t *testing.T) {
	s := struct{ Password Secret }{"hunter2"}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "password", s.Password, "whole", s)
	for _, shown := range []string{fmt.Sprint(s), fmt.Sprintf("%+v %#v %q %s", s, s, s, s.Password), string(b), log.String()} {
		if strings.Contains(shown, "hunter2") {
			t.Errorf("%s shows the secret", shown)
		}
	}
	if s.Password.Reveal() != "hunter2" {
		t.Error("Reveal does not")
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]Size{
		"0": 0, "7 B": 7, "64KiB": 65536, "64 KiB": 65536, "10 MB": 10_000_000, "50 MiB": 50 << 20, "2GiB": 2 << 30,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "5", "MiB", "-1 MiB", "1.5 MiB", "5 mib", "5 TiB", "9999999999999 GiB", "0x5 B", "+5 B"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d", s, got)
		}
	}
	for _, size := range []Size{0, 1, 1023, KiB, 3 * MiB, GiB, GiB + 1, 1000} {
		if got, err := ParseSize(size.String()); err != nil || got != size {
			t.Errorf("ParseSize(%q) = %d, %v", size, got, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(Sample("example.org"))
	f.Add([]byte("a: [b, {c: d}]\n---\n- e"))
	f.Add([]byte("federation:\n  old_signing_keys: [{expired: !!x *y}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := Default()
		if d := decode(data, c); len(d.problems) == 0 {
			_ = c.Check()
		}
	})
}
