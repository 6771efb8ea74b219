package config

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"parley/internal/id"
)

// RoomVersions are the versions that new rooms may have.
//
// spec: rooms/index.md#complete-list-of-room-versions
func RoomVersions() []id.RoomVersion {
	return []id.RoomVersion{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}
}

// Check looks for values out of range and for settings that contradict each other. Its error
// is a Problems with all of them, in the order of the settings.
func (c *Config) Check() error {
	k := &checker{}
	if c.ServerName == "" {
		k.add("server_name", "is required: the name of this server, such as example.org")
	} else {
		serverName(k, "server_name", c.ServerName)
	}
	if c.DataDir == "" {
		k.add("data_dir", "must name a folder")
	}
	c.checkListeners(k)
	c.checkDatabase(k)
	c.checkRegistration(k)
	c.checkRates(k)
	c.checkWellKnown(k)
	c.checkLimits(k)
	if !slices.Contains(RoomVersions(), c.Rooms.DefaultVersion) {
		k.add("rooms.default_version", "there is no room version %q; the versions are 1 to 12", c.Rooms.DefaultVersion)
	}
	c.checkRetention(k)
	for i, file := range c.AppServices {
		if file == "" {
			k.add(fmt.Sprintf("appservices[%d]", i), "must name a file")
		}
	}
	c.checkFederation(k)
	c.checkEmail(k)
	c.checkTURN(k)
	c.checkMedia(k)
	for name := range c.Logging.Packages {
		if name == "" || strings.ContainsAny(name, " \t") {
			k.add("logging.packages", "must name packages, such as roomserver, not %q", name)
		}
	}
	if len(k.problems) > 0 {
		return k.problems
	}
	return nil
}

type checker struct{ problems Problems }

func (k *checker) add(setting, format string, args ...any) {
	k.problems = append(k.problems, Problem{Setting: setting, Reason: fmt.Sprintf(format, args...)})
}

// serverName checks a server name.
func serverName(k *checker, setting string, name id.ServerName) {
	if _, err := id.ParseServerName(string(name)); err != nil {
		k.add(setting, "%q cannot be a server name: %v", name, err)
	}
}

func (c *Config) checkListeners(k *checker) {
	l := &c.Listeners
	if l.Client.Address == "" {
		k.add("listeners.client.address", "is required, such as 127.0.0.1:8008")
	}
	taken := make(map[string]string)
	for _, a := range []struct{ setting, address string }{
		{"listeners.client.address", l.Client.Address},
		{"listeners.federation.address", l.Federation.Address},
		{"metrics.address", c.Metrics.Address},
		{"acme.http_address", c.ACME.HTTPAddress},
	} {
		if a.address == "" {
			continue
		}
		if err := checkAddress(a.address); err != nil {
			k.add(a.setting, "%v", err)
			continue
		}
		if other, ok := taken[a.address]; ok && !strings.HasSuffix(a.address, ":0") {
			k.add(a.setting, "%s is the address of %s already", a.address, other)
		}
		taken[a.address] = a.setting
	}
	for _, t := range []struct {
		setting string
		Listener
	}{{"listeners.client", l.Client}, {"listeners.federation", l.Federation}} {
		switch {
		case t.TLSCertificate != "" && t.TLSKey == "":
			k.add(t.setting+".tls_certificate", "needs tls_key too")
		case t.TLSCertificate == "" && t.TLSKey != "":
			k.add(t.setting+".tls_key", "needs tls_certificate too")
		case t.TLSCertificate != "" && t.Address == "":
			k.add(t.setting+".tls_certificate", "is of no use without an address to listen on")
		}
	}
	c.checkACME(k)
	if l.Federation.Address != "" && !c.Federation.Enabled {
		k.add("listeners.federation.address", "contradicts federation.enabled: false")
	}
}

func (c *Config) checkACME(k *checker) {
	used := false
	for _, t := range []struct {
		setting string
		Listener
	}{{"listeners.client", c.Listeners.Client}, {"listeners.federation", c.Listeners.Federation}} {
		if !t.ACME {
			continue
		}
		used = true
		switch {
		case t.TLSCertificate != "":
			k.add(t.setting+".acme", "contradicts tls_certificate")
		case t.Address == "":
			k.add(t.setting+".acme", "is of no use without an address to listen on")
		}
	}
	a := &c.ACME
	switch {
	case used && len(a.Domains) == 0:
		k.add("acme.domains", "must name the hosts that listeners with acme are reached by")
	case !used && len(a.Domains) > 0:
		k.add("acme.domains", "is of no use without a listener that has acme: true")
	case !used && a.HTTPAddress != "":
		k.add("acme.http_address", "is of no use without a listener that has acme: true")
	}
	for i, d := range a.Domains {
		// The authority decides what it gives certificates for; this finds slips.
		_, err := id.ParseServerName(d)
		if err != nil || strings.ContainsAny(d, ":[") || !strings.Contains(d, ".") || net.ParseIP(d) != nil {
			k.add(fmt.Sprintf("acme.domains[%d]", i), "%q is not a host such as matrix.example.org", d)
		}
	}
	if a.Email != "" && !strings.Contains(a.Email, "@") {
		k.add("acme.email", "is not an email address")
	}
	webURL(k, "acme.directory", a.Directory)
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || strings.ContainsAny(host, "/ ") {
		return fmt.Errorf("%q is not an address with a port, such as 127.0.0.1:8008 or [::1]:8008", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has no port between 0 and 65535", address)
	}
	return nil
}

func (c *Config) checkDatabase(k *checker) {
	d := &c.Database
	if d.URL != "" {
		u, err := url.Parse(d.URL.Reveal())
		// The error of url.Parse would show the password.
		if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
			k.add(given("database.url", d.URL, d.URLFile), "must be a URL such as postgres://user:password@host/database")
		}
	}
	if d.Readers < 0 {
		k.add("database.readers", "must not be negative")
	}
}

func (c *Config) checkRegistration(k *checker) {
	r := &c.Registration
	token := given("registration.token", r.Token, r.TokenFile)
	switch {
	case r.Allow == Token && token == "":
		k.add("registration.allow", `"token" needs a token, in registration.token or registration.token_file`)
	case r.Allow != Token && token != "":
		k.add(token, `is of no use where registration.allow is %q; set that to "token"`, r.Allow)
	}
	if r.MinPassword < 1 || r.MinPassword > 128 {
		k.add("registration.min_password", "must be 1 to 128, not %d", r.MinPassword)
	}
	// spec: client-server-api/index.md#token-authenticated-registration
	if t := r.Token.Reveal(); len(t) > 64 || strings.Trim(t, tokenAlphabet) != "" {
		k.add("registration.token", "must have at most 64 characters, of A-Z a-z 0-9 . _ ~ -")
	}
}

// given is the setting by which a secret was given, empty when it was not.
func given(setting string, s Secret, file Path) string {
	switch {
	case file != "":
		return setting + "_file"
	case s != "":
		return setting
	default:
		return ""
	}
}

const tokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-"

func (c *Config) checkRates(k *checker) {
	for _, r := range []struct {
		setting string
		Rate
	}{
		{"rate_limits.login", c.RateLimits.Login},
		{"rate_limits.registration", c.RateLimits.Registration},
		{"rate_limits.sending", c.RateLimits.Sending},
	} {
		if r.PerSecond <= 0 {
			k.add(r.setting+".per_second", "must be more than 0; rate_limits.enabled: false switches all limits off")
		}
		if r.Burst < 1 {
			k.add(r.setting+".burst", "must be at least 1")
		}
	}
}

func (c *Config) checkWellKnown(k *checker) {
	w := &c.WellKnown
	webURL(k, "well_known.client_base_url", w.ClientBaseURL)
	webURL(k, "well_known.support_page", w.SupportPage)
	if w.Server != "" {
		serverName(k, "well_known.server", w.Server)
		if !c.Federation.Enabled {
			k.add("well_known.server", "contradicts federation.enabled: false")
		}
	}
	for i, contact := range w.SupportContacts {
		setting := fmt.Sprintf("well_known.support_contacts[%d]", i)
		if contact.Role == "" {
			k.add(setting+".role", "must be given: m.role.admin or m.role.security")
		}
		if contact.MatrixID == "" && contact.EmailAddress == "" {
			k.add(setting, "needs a matrix_id or an email_address")
		}
		if contact.MatrixID != "" {
			if _, err := id.ParseUserID(string(contact.MatrixID)); err != nil {
				k.add(setting+".matrix_id", "%v", err)
			}
		}
		if contact.EmailAddress != "" && !strings.Contains(contact.EmailAddress, "@") {
			k.add(setting+".email_address", "is not an email address")
		}
	}
}

func webURL(k *checker, setting, s string) {
	if s == "" {
		return
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		k.add(setting, "%q is not a URL that starts with https://", s)
	}
}

func (c *Config) checkLimits(k *checker) {
	l := &c.Limits
	// spec: client-server-api/index.md#size-limits
	if l.EventSize < 4*KiB || l.EventSize > 64*KiB {
		k.add("limits.event_size", "must be between 4 KiB and 64 KiB, not %s", l.EventSize)
	}
	if l.BodySize < l.EventSize {
		k.add("limits.body_size", "must not be less than limits.event_size, which is %s", l.EventSize)
	}
}

func (c *Config) checkFederation(k *checker) {
	f := &c.Federation
	for i, p := range f.AllowServers {
		pattern(k, fmt.Sprintf("federation.allow_servers[%d]", i), p)
	}
	for i, p := range f.DenyServers {
		pattern(k, fmt.Sprintf("federation.deny_servers[%d]", i), p)
		if slices.Contains(f.AllowServers, p) {
			k.add(fmt.Sprintf("federation.deny_servers[%d]", i), "%s is in allow_servers too", p)
		}
	}
	for i, p := range f.SigningKeys {
		if p == "" {
			k.add(fmt.Sprintf("federation.signing_keys[%d]", i), "must name a file")
		}
	}
	for i, old := range f.OldSigningKeys {
		setting := fmt.Sprintf("federation.old_signing_keys[%d]", i)
		// spec: appendices.md#signing-details
		if version, ok := strings.CutPrefix(old.ID, "ed25519:"); !ok || version == "" {
			k.add(setting+".id", "must be the name of an ed25519 key, such as ed25519:a_Jxyz")
		}
		if b, err := base64.RawStdEncoding.DecodeString(old.PublicKey); err != nil || len(b) != 32 {
			k.add(setting+".public_key", "must be 32 bytes in unpadded base64, 43 characters")
		}
		if old.Expired.IsZero() {
			k.add(setting+".expired", "must be the time since when the key is no longer used")
		}
	}
	for i, n := range f.Notaries {
		setting := fmt.Sprintf("federation.notaries[%d]", i)
		serverName(k, setting, n)
		if n == c.ServerName {
			k.add(setting, "%s is this server itself", n)
		}
	}
	for i, p := range c.Outgoing.AllowNetworks {
		if slices.Contains(c.Outgoing.DenyNetworks, p) {
			k.add(fmt.Sprintf("outgoing.allow_networks[%d]", i), "%s is in deny_networks too", p)
		}
	}
}

// pattern checks a server name with wildcards.
func pattern(k *checker, setting, p string) {
	if p == "" || strings.ContainsAny(p, " /@!#") {
		k.add(setting, "%q is not a server name, nor one with * and ? as wildcards", p)
	}
}

func (c *Config) checkEmail(k *checker) {
	e, r := &c.Email, &c.Registration
	if r.MaxUsers < 0 {
		k.add("registration.max_users", "must not be negative")
	}
	for i, t := range r.Terms {
		if t.Name == "" || t.Title == "" || t.Version == "" || !strings.HasPrefix(t.URL, "http") {
			k.add(fmt.Sprintf("registration.terms[%d]", i), "needs a name, a version, a title and the URL of a page")
		}
	}
	if e.Host == "" {
		if r.RequireEmail {
			k.add("registration.require_email", "needs a server that sends mail, in email.host")
		}
		return
	}
	switch e.Encryption {
	case "starttls", "tls", "none":
	default:
		k.add("email.encryption", "%q is none of starttls, tls and none", e.Encryption)
	}
	if e.Port < 1 || e.Port > 65535 {
		k.add("email.port", "%d is not a port", e.Port)
	}
	if _, err := mail.ParseAddress(e.From); err != nil {
		k.add("email.from", "%q is not an email address", e.From)
	}
	if c.WellKnown.ClientBaseURL == "" {
		k.add("email.host", "needs well_known.client_base_url, to which the links of mails lead")
	}
}

func (c *Config) checkMedia(k *checker) {
	m := &c.Media
	if m.MaxPixels < 1 {
		k.add("media.max_pixels", "must be at least 1")
	}
	if m.CacheAge < 0 {
		k.add("media.cache_age", "must not be negative")
	}
	secret := given("media.s3.secret_key", m.S3.SecretKey, m.S3.SecretKeyFile)
	if m.S3.Endpoint == "" {
		if secret != "" {
			k.add(secret, "is of no use without media.s3.endpoint")
		}
		return
	}
	if u, err := url.Parse(m.S3.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		k.add("media.s3.endpoint", "%q is not an address such as https://s3.example.org", m.S3.Endpoint)
	}
	if m.S3.Bucket == "" {
		k.add("media.s3.endpoint", "needs a bucket, in media.s3.bucket")
	}
	if m.S3.AccessKey == "" || secret == "" {
		k.add("media.s3.endpoint", "needs media.s3.access_key, and media.s3.secret_key or media.s3.secret_key_file")
	}
}

func (c *Config) checkRetention(k *checker) {
	r := &c.Retention
	for _, d := range []struct {
		key string
		of  time.Duration
	}{
		{"default_lifetime", r.DefaultLifetime}, {"min_lifetime", r.MinLifetime}, {"max_lifetime", r.MaxLifetime},
	} {
		if d.of < 0 {
			k.add("retention."+d.key, "must not be negative")
		}
	}
	if r.MaxLifetime > 0 && r.MaxLifetime < r.MinLifetime {
		k.add("retention.max_lifetime", "must not be less than retention.min_lifetime")
	}
	if r.Interval <= 0 {
		k.add("retention.interval", "must be more than 0")
	}
}

func (c *Config) checkTURN(k *checker) {
	t := &c.TURN
	secret := given("turn.shared_secret", t.SharedSecret, t.SharedSecretFile)
	switch {
	case len(t.URIs) > 0 && secret == "":
		k.add("turn.uris", "need the relay's secret, in turn.shared_secret or turn.shared_secret_file")
	case len(t.URIs) == 0 && secret != "":
		k.add(secret, "is of no use without turn.uris")
	}
	for i, u := range t.URIs {
		if !strings.HasPrefix(u, "turn:") && !strings.HasPrefix(u, "turns:") {
			k.add(fmt.Sprintf("turn.uris[%d]", i), "%q is not a URI that starts with turn: or turns:", u)
		}
	}
	if t.Lifetime <= 0 {
		k.add("turn.lifetime", "must be more than 0")
	}
}
