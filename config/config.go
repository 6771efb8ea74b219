package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"parley/internal/id"
)

// Config is everything that an operator can set.
type Config struct {
	// The name of this server, which stands after the colon in the IDs of its users and
	// rooms. It cannot be changed once the server has users.
	ServerName id.ServerName `yaml:"server_name"`
	// The folder of what this node writes: the SQLite database, the signing key, uploads.
	DataDir Path `yaml:"data_dir"`
	// Whether users see who is online: "full" tells other servers too, "local" only the
	// users of this one, "off" nobody.
	Presence Presence `yaml:"presence"`

	// Where this node listens.
	Listeners Listeners `yaml:"listeners"`
	// Certificates that this node gets and renews by itself, from Let's Encrypt or another
	// authority that speaks ACME.
	ACME ACME `yaml:"acme"`
	// Where accounts and rooms are kept.
	Database Database `yaml:"database"`
	// Who may make an account.
	Registration Registration `yaml:"registration"`
	// How often one client may do what is costly or worth abusing: so many a second for
	// long, and so many at once after a rest.
	RateLimits RateLimits `yaml:"rate_limits"`
	// What this node tells at /.well-known/matrix/ to those who look for the server by its
	// name.
	WellKnown WellKnown `yaml:"well_known"`
	// The largest things that this node accepts.
	Limits Limits `yaml:"limits"`
	// How rooms are made and found.
	Rooms Rooms `yaml:"rooms"`
	// For how long messages are kept, where it is not for ever.
	Retention Retention `yaml:"retention"`
	// The registration files of application services, such as bridges; each makes its own.
	AppServices []Path `yaml:"appservices"`
	// How this node deals with other servers.
	Federation Federation `yaml:"federation"`
	// Which networks this node connects to when a stranger names the address: other
	// servers, push gateways, previewed pages.
	Outgoing Outgoing `yaml:"outgoing"`
	// How this node sends mail, by which users show that an email address is theirs. Its
	// links lead to well_known.client_base_url.
	Email Email `yaml:"email"`
	// Files: what users upload, and copies of what users of other servers did. The largest
	// upload is set in limits.
	Media Media `yaml:"media"`
	// The relay for voice and video calls.
	TURN TURN `yaml:"turn"`
	// What this node writes to its standard error.
	Logging Logging `yaml:"logging"`
	// Figures for Prometheus.
	Metrics Metrics `yaml:"metrics"`
}

// Listeners is where a node listens.
type Listeners struct {
	// The reverse proxies whose X-Forwarded-For header tells a client's address, as
	// addresses or networks.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies"`
	// The client API, and the server-server API too unless that has a listener of its own.
	Client Listener `yaml:"client"`
	// The server-server API, when it is to have a listener of its own. Without an address
	// here it is served by the client listener.
	Federation Listener `yaml:"federation"`
}

// Listener is one address that a node listens on.
type Listener struct {
	// The address and port, such as 127.0.0.1:8008, or :8448 for every address of the
	// machine.
	Address string `yaml:"address"`
	// A PEM file with the certificate and its chain; empty to speak plain HTTP, to a reverse
	// proxy that does the TLS. Files that are replaced are read anew, without a restart.
	TLSCertificate Path `yaml:"tls_certificate"`
	// A PEM file with the certificate's private key.
	TLSKey Path `yaml:"tls_key"`
	// Whether this node gets the certificate by itself; see acme.
	ACME bool `yaml:"acme"`
}

// ACME is certificates that a node gets by itself.
type ACME struct {
	// The hosts to get certificates for, such as matrix.example.org, which must lead to this
	// node.
	Domains []string `yaml:"domains"`
	// Where the authority can reach you when a certificate is in trouble; may be empty. Whoever
	// uses an authority agrees to its terms.
	Email string `yaml:"email"`
	// The authority's directory; empty for Let's Encrypt.
	Directory string `yaml:"directory"`
	// Where to listen for the authority's questions over plain HTTP, which it asks at port 80 of
	// the domains, such as :80; everybody else is sent on to HTTPS. Empty where a listener with
	// acme is reached at port 443, where the authority can ask too.
	HTTPAddress string `yaml:"http_address"`
}

// Database is where accounts and rooms are kept.
type Database struct {
	// A PostgreSQL database, such as postgres://parley:password@localhost/parley?sslmode=disable;
	// empty for SQLite, in the file parley.db of the data directory.
	URL Secret `yaml:"url"`
	// A file that holds the URL.
	URLFile Path `yaml:"url_file"`
	// How many requests may read the database at the same time; each takes a connection, and
	// one more writes. 0 for a good number: 4 with SQLite, 16 with PostgreSQL.
	Readers int `yaml:"readers"`
	// When a write counts as done: "full" when it is on the disk, "relaxed" when the
	// operating system has it, which survives a crash of Parley but not one of the machine.
	Durability Durability `yaml:"durability"`
}

// Registration is who may make an account.
type Registration struct {
	// Who may make an account: "nobody", whoever knows a "token", or "anyone". Accounts can
	// always be made by `parley user create`.
	Allow RegistrationMode `yaml:"allow"`
	// The token that opens registration where allow is "token".
	Token Secret `yaml:"token"`
	// A file that holds the token.
	TokenFile Path `yaml:"token_file"`
	// The secret with which a program makes accounts at /_synapse/admin/v1/register; empty
	// to switch that off.
	SharedSecret Secret `yaml:"shared_secret"`
	// A file that holds the shared secret.
	SharedSecretFile Path `yaml:"shared_secret_file"`
	// Whether guests, who have no password, may use the server.
	Guests bool `yaml:"guests"`
	// How many characters a new password has at the least.
	MinPassword int `yaml:"min_password"`
	// Whether new users must show that an email address is theirs, which needs the settings
	// of email.
	RequireEmail bool `yaml:"require_email"`
	// How many accounts there may be before people can make no more for themselves; 0 for
	// no bound.
	MaxUsers int `yaml:"max_users"`
	// The documents that new users must accept:
	//
	//	terms:
	//	  - name: privacy
	//	    version: "1.0"
	//	    title: Privacy policy
	//	    url: https://example.org/privacy
	Terms []Terms `yaml:"terms"`
}

// Terms is a document that new users must accept.
//
// spec: client-server-api/index.md#terms-of-service-at-registration
type Terms struct {
	// A name for programs, of letters, digits, _ and -.
	Name string `yaml:"name"`
	// The document's version.
	Version string `yaml:"version"`
	// What people read as its name.
	Title string `yaml:"title"`
	// Where the document is to be read.
	URL string `yaml:"url"`
}

// Email is the SMTP server by which a node sends mail.
type Email struct {
	// The server's host name; empty to send no mail, so that users can't use email addresses.
	Host string `yaml:"host"`
	// The server's port.
	Port int `yaml:"port"`
	// How the connection is encrypted: "starttls", "tls" from its beginning, or "none", for a
	// server on the same machine.
	Encryption string `yaml:"encryption"`
	// The user name, where the server asks for one.
	Username string `yaml:"username"`
	// The password.
	Password Secret `yaml:"password"`
	// A file that holds the password.
	PasswordFile Path `yaml:"password_file"`
	// Who sends, such as Example <noreply@example.org>.
	From string `yaml:"from"`
}

// RateLimits is how often one client may do what is costly or worth abusing.
type RateLimits struct {
	// Whether there are rate limits at all.
	Enabled bool `yaml:"enabled"`
	// Attempts to log in, from one address and to one account.
	Login Rate `yaml:"login" sample:"inline"`
	// New accounts, from one address.
	Registration Rate `yaml:"registration" sample:"inline"`
	// Messages and other changes to rooms, by one user.
	Sending Rate `yaml:"sending" sample:"inline"`
}

// Rate is how often something may be done.
type Rate struct {
	// How many in a second, for long.
	PerSecond float64 `yaml:"per_second"`
	// How many at once, after a rest.
	Burst int `yaml:"burst"`
}

// WellKnown is what a node tells to those who look for the server by its name.
type WellKnown struct {
	// The URL at which clients reach this server, such as https://matrix.example.org; empty
	// not to serve /.well-known/matrix/client.
	ClientBaseURL string `yaml:"client_base_url"`
	// The host and port at which other servers reach this one, such as
	// matrix.example.org:443; empty not to serve /.well-known/matrix/server.
	Server id.ServerName `yaml:"server"`
	// A page that helps users of this server; with no page and no contacts,
	// /.well-known/matrix/support is not served.
	SupportPage string `yaml:"support_page"`
	// Ways to reach the people who run this server, each with a role (m.role.admin or
	// m.role.security) and a Matrix ID, an email address, or both:
	//
	//	support_contacts:
	//	  - role: m.role.admin
	//	    matrix_id: "@admin:example.org"
	//	    email_address: admin@example.org
	SupportContacts []Contact `yaml:"support_contacts"`
}

// Contact is a way to reach the people who run a server.
//
// spec: client-server-api/index.md#getwell-knownmatrixsupport
type Contact struct {
	// What to turn to this contact for: m.role.admin or m.role.security.
	Role string `yaml:"role"`
	// The contact's Matrix ID.
	MatrixID id.UserID `yaml:"matrix_id"`
	// The contact's email address.
	EmailAddress string `yaml:"email_address"`
}

// Limits is the largest things that a node accepts.
type Limits struct {
	// The largest event that a client may send; the protocol allows no more than 64 KiB.
	EventSize Size `yaml:"event_size"`
	// The largest body of any other request from a client.
	BodySize Size `yaml:"body_size"`
	// The largest file that a user may upload.
	UploadSize Size `yaml:"upload_size"`
}

// Rooms is how rooms are made and found.
type Rooms struct {
	// The version of new rooms whose maker asks for none.
	DefaultVersion id.RoomVersion `yaml:"default_version"`
	// Who may list a room in this server's public directory: "everyone", "admins" of the
	// server, or "nobody".
	Publish Publish `yaml:"publish"`
	// Whether a search for users finds all users of this server. Else it finds those who share a
	// room with the one who searches, and those in rooms that anybody may join or read.
	FindAllUsers bool `yaml:"find_all_users"`
	// Whether other servers may read the public directory.
	FederateDirectory bool `yaml:"federate_directory"`
}

// Retention is for how long messages are kept, which are all events but those that make up the state of
// a room. Members of a room can say so, in its m.room.retention (MSC1763).
type Retention struct {
	// Whether messages leave at all. What has left is gone for good, and nobody is asked for it again.
	Enabled bool `yaml:"enabled"`
	// For how long messages are kept in rooms that don't say, such as 8760h; 0 for ever.
	DefaultLifetime time.Duration `yaml:"default_lifetime"`
	// The shortest time for which messages are kept, whatever a room says.
	MinLifetime time.Duration `yaml:"min_lifetime"`
	// The longest time for which messages are kept, in any room; 0 for no limit.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
	// How often messages are taken away whose time is up. Nobody is shown them in between.
	Interval time.Duration `yaml:"interval"`
}

// Federation is how a node deals with other servers.
type Federation struct {
	// Whether this node talks to other servers at all.
	Enabled bool `yaml:"enabled"`
	// Whether other servers need a valid certificate; only tests and development may do
	// without.
	VerifyTLS bool `yaml:"verify_tls"`
	// The only servers to talk to, as names with * and ? as wildcards; empty for all.
	AllowServers []string `yaml:"allow_servers"`
	// Servers never to talk to, as names with * and ? as wildcards.
	DenyServers []string `yaml:"deny_servers"`
	// Files that each hold a signing key. This node publishes them all and signs with the
	// first. Empty for the file signing.key of the data directory, which is made at the
	// first start.
	SigningKeys []Path `yaml:"signing_keys"`
	// Keys with which this server signed in the past, so that others can still check old
	// events:
	//
	//	old_signing_keys:
	//	  - id: ed25519:a_Jxyz
	//	    public_key: 5jHEqZ7bDYJ2EUVPG9Rl9nlxPNB7qkXdWRaOvVfIyq0
	//	    expired: 2026-01-31T00:00:00Z
	OldSigningKeys []OldKey `yaml:"old_signing_keys"`
	// Servers that are asked for the keys of a server that does not answer itself.
	Notaries []id.ServerName `yaml:"notaries"`
}

// OldKey is a key with which a server signed in the past.
//
// spec: server-server-api.md#publishing-keys
type OldKey struct {
	// The key's ID, such as ed25519:a_Jxyz.
	ID string `yaml:"id"`
	// The public key in unpadded base64.
	PublicKey string `yaml:"public_key"`
	// When this server stopped to sign with the key.
	Expired time.Time `yaml:"expired"`
}

// Outgoing is which networks a node connects to when a stranger names the address.
type Outgoing struct {
	// Networks that are never connected to. By default those that are private, local or
	// reserved.
	DenyNetworks []netip.Prefix `yaml:"deny_networks"`
	// Networks that may be connected to although they lie in a denied one.
	AllowNetworks []netip.Prefix `yaml:"allow_networks"`
}

// Media is how a node keeps files.
type Media struct {
	// The folder of the files; empty for the folder media of the data directory.
	Directory Path `yaml:"directory"`
	// A bucket for the files instead of the folder, which then has only what is being uploaded.
	S3 S3 `yaml:"s3"`
	// How much the files of one user may have in all; 0 for no limit.
	UserQuota Size `yaml:"user_quota"`
	// The largest file that is fetched from another server.
	RemoteSize Size `yaml:"remote_size"`
	// How much copies of other servers' files may have in all: the longest unused go first. 0
	// for no limit.
	CacheSize Size `yaml:"cache_size"`
	// For how long such a copy is kept that nobody asks for; 0 for ever.
	CacheAge time.Duration `yaml:"cache_age"`
	// The largest picture of which thumbnails are made, in pixels.
	MaxPixels int `yaml:"max_pixels"`
	// Files from before this time are served to whoever knows their address, without a login,
	// as old clients ask for them; such as 2024-09-01T00:00:00Z. Unset, none are.
	UnauthenticatedBefore time.Time `yaml:"unauthenticated_before"`
	// Previews of the pages that messages name.
	Previews Previews `yaml:"previews"`
}

// S3 is a bucket of a service that speaks S3, as many others than Amazon's do.
type S3 struct {
	// The service's address, such as https://s3.eu-central-1.amazonaws.com; empty for no bucket.
	Endpoint string `yaml:"endpoint"`
	// Where the bucket is; empty to ask the service.
	Region string `yaml:"region"`
	// The bucket, which must be there already.
	Bucket string `yaml:"bucket"`
	// What the names of this node's objects begin with.
	Prefix string `yaml:"prefix"`
	// The access key's name.
	AccessKey string `yaml:"access_key"`
	// The access key's secret.
	SecretKey Secret `yaml:"secret_key"`
	// A file that holds the secret.
	SecretKeyFile Path `yaml:"secret_key_file"`
}

// Previews is what a node tells its users of pages. To do so it asks the servers of the pages,
// which are whatever somebody wrote in a message; never those in outgoing.deny_networks.
type Previews struct {
	// Whether there are previews.
	Enabled bool `yaml:"enabled"`
	// Hosts that are never asked, in which * stands for any characters and ? for one.
	DenyHosts []string `yaml:"deny_hosts"`
	// The languages in which pages are asked for, as an Accept-Language header has them; empty
	// to leave it to the pages.
	Language string `yaml:"language"`
}

// TURN is the relay for voice and video calls.
type TURN struct {
	// The relay's URIs, such as turn:turn.example.org?transport=udp; empty for no relay.
	URIs []string `yaml:"uris"`
	// The secret that this server shares with the relay, to make short-lived passwords.
	SharedSecret Secret `yaml:"shared_secret"`
	// A file that holds the shared secret.
	SharedSecretFile Path `yaml:"shared_secret_file"`
	// How long such a password is valid.
	Lifetime time.Duration `yaml:"lifetime"`
}

// Logging is what a node writes to its standard error.
type Logging struct {
	// The least important lines to write: "debug", "info", "warn" or "error".
	Level Level `yaml:"level"`
	// One line a record: "text" for people, "json" for programs.
	Format LogFormat `yaml:"format"`
	// Levels of single packages, such as {roomserver: debug}.
	Packages map[string]Level `yaml:"packages"`
}

// Metrics is where figures for Prometheus are to be had.
type Metrics struct {
	// The address of a listener for /metrics, and for profiles at /debug/pprof/, such as
	// 127.0.0.1:9090; empty for none. It is for operators alone.
	Address string `yaml:"address"`
}

// Default is the configuration of a file that sets nothing. It lacks a server name.
func Default() *Config {
	return &Config{
		DataDir:  "data",
		Presence: PresenceFull,
		Listeners: Listeners{
			TrustedProxies: prefixes("127.0.0.0/8", "::1/128"),
			Client:         Listener{Address: "127.0.0.1:8008"},
		},
		Database:     Database{Durability: Full},
		Registration: Registration{Allow: Nobody, MinPassword: 8},
		RateLimits: RateLimits{
			Enabled:      true,
			Login:        Rate{PerSecond: 0.2, Burst: 5},
			Registration: Rate{PerSecond: 0.05, Burst: 3},
			Sending:      Rate{PerSecond: 10, Burst: 50},
		},
		Limits: Limits{
			EventSize:  64 * KiB,
			BodySize:   2 * MiB,
			UploadSize: 50 * MiB,
		},
		Rooms: Rooms{
			DefaultVersion:    "12",
			Publish:           PublishEveryone,
			FederateDirectory: true,
		},
		Retention: Retention{MinLifetime: 24 * time.Hour, Interval: time.Hour},
		Federation: Federation{
			Enabled:   true,
			VerifyTLS: true,
			Notaries:  []id.ServerName{"matrix.org"},
		},
		Outgoing: Outgoing{
			// What IANA's special-purpose address registries do not call globally reachable,
			// and multicast.
			DenyNetworks: prefixes(
				"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
				"172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
				"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
				"::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "2001:db8::/32",
				"fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
			),
		},
		Email: Email{Port: 587, Encryption: "starttls"},
		Media: Media{
			RemoteSize: 100 * MiB,
			CacheSize:  10 * GiB,
			CacheAge:   90 * 24 * time.Hour,
			MaxPixels:  40_000_000,
		},
		TURN: TURN{Lifetime: 24 * time.Hour},
		Logging: Logging{
			Level:  LevelInfo,
			Format: FormatText,
		},
	}
}

// Local is the configuration of a node that was given no file: one for this machine alone,
// to try Parley or to develop a client. Registration is open and nothing is limited, which is
// why listen must be a loopback address; empty, it is 127.0.0.1:8008. An empty dataDir is the
// folder data.
func Local(dataDir, listen string) (*Config, error) {
	c := Default()
	c.ServerName = "localhost"
	c.Registration.Allow = Anyone
	c.RateLimits.Enabled = false
	// No server can find one that is called localhost.
	c.Federation.Enabled = false
	if dataDir != "" {
		c.DataDir = Path(dataDir)
	}
	if listen != "" {
		c.Listeners.Client.Address = listen
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	if !loopback(c.Listeners.Client.Address) {
		return nil, fmt.Errorf("refused to listen on %s: without a configuration file registration is open and nothing is limited, "+
			"so only this machine may connect (127.0.0.1, [::1] or localhost); "+
			"to listen elsewhere, write a file with `parley config init` and give it with --config",
			c.Listeners.Client.Address)
	}
	return c, nil
}

// SQLiteFile is the database file, where Database.URL is empty.
func (c *Config) SQLiteFile() string { return filepath.Join(string(c.DataDir), "parley.db") }

// MediaDirectory is the folder of the files.
func (c *Config) MediaDirectory() string {
	if c.Media.Directory != "" {
		return string(c.Media.Directory)
	}
	return filepath.Join(string(c.DataDir), "media")
}

// SigningKeyFile is the signing key's file, where Federation.SigningKeys is empty.
func (c *Config) SigningKeyFile() string { return filepath.Join(string(c.DataDir), "signing.key") }

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// parsePrefix reads a network, or a single address as a network of one.
func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		if p != p.Masked() {
			return netip.Prefix{}, fmt.Errorf("has bits set after its first %d; the network is %s", p.Bits(), p.Masked())
		}
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, errors.New("must be an address or a network, such as 10.0.0.0/8")
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
